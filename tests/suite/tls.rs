//! The client's own TLS: it trusts what the system trusts, and reaches Released through the proxy that the environment names.
//!
//! Both are told by environment variables, which are read when a client is built, so the tests run themselves once more with
//! them. On Linux: elsewhere, systems do not let a variable say whom they trust.

use std::env;
use std::process::Command;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tower_released::client::ConfigErrorKind;
use tower_released::{MintErrorKind, ReleasedClient, User};

use crate::support::authority::Authority;
use crate::support::fault_server::{FaultServer, Read, reply};

const SECRET: &str = "s3cret-of-the-account";

fn client(endpoint: String) -> ReleasedClient {
    ReleasedClient::builder("acc", SECRET)
        .endpoint(endpoint)
        .build()
        .unwrap()
}

#[tokio::test]
async fn what_the_system_trusts_is_trusted_directly_and_through_a_proxy() {
    const NAME: &str = "tls::what_the_system_trusts_is_trusted_directly_and_through_a_proxy";
    const PORTS: &str = "TOWER_RELEASED_TEST_PORTS";

    let user = User::new("ada", "ada@example.com").unwrap();
    if let Ok(ports) = env::var(PORTS) {
        let [good, expired, another] = ports.split(' ').collect::<Vec<_>>()[..] else {
            panic!("three ports")
        };
        let at = |port: &str| client(format!("https://localhost:{port}/token"));
        assert_eq!(at(good).mint(&user).await.unwrap().as_str(), "a.b.c");
        for port in [expired, another] {
            assert_eq!(
                at(port).mint(&user).await.unwrap_err().kind(),
                MintErrorKind::Connect
            );
        }
        let proxied = client("https://released.example/token".to_owned());
        assert_eq!(proxied.mint(&user).await.unwrap().as_str(), "d.e.f");
        return;
    }

    let authority = Authority::new();
    let server = |host, until_year| {
        FaultServer::start_tls(
            vec![vec![Read, reply("200 OK", "\"a.b.c\"")]],
            authority.server_for(host, until_year),
        )
    };
    let (good, expired, another) = tokio::join!(
        server("localhost", 2090),
        server("localhost", 2021),
        server("another.example", 2090)
    );
    let ports = [&good, &expired, &another].map(|server| server.address.port().to_string());
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy_url = format!("http://ada:pass@{}", proxy.local_addr().unwrap());
    let proxied = tokio::spawn(be_the_proxy(
        proxy,
        authority.server_for("released.example", 2090),
    ));

    let roots = env::temp_dir().join(format!("tower-released-roots-{}.pem", std::process::id()));
    std::fs::write(&roots, authority.pem()).unwrap();
    let mut child = Command::new(env::current_exe().unwrap());
    child
        .args(["--exact", NAME])
        .env(PORTS, ports.join(" "))
        .env("SSL_CERT_FILE", &roots)
        .env("HTTPS_PROXY", &proxy_url)
        .env_remove("https_proxy")
        .env_remove("NO_PROXY")
        .env_remove("no_proxy");
    let output = tokio::task::spawn_blocking(move || child.output().unwrap())
        .await
        .unwrap();
    std::fs::remove_file(&roots).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );

    // What waiting does not mend is not tried again, and whoever is not trusted is told nothing.
    assert_eq!(
        (good.requests(), expired.requests(), another.requests()),
        (1, 0, 0)
    );
    assert_eq!((expired.connections(), another.connections()), (1, 1));
    let (to_the_proxy, to_released) = proxied.await.unwrap();
    assert!(
        to_the_proxy.starts_with("CONNECT released.example:443 HTTP/1.1\r\n"),
        "{to_the_proxy}"
    );
    assert!(
        to_the_proxy
            .to_ascii_lowercase()
            .contains("proxy-authorization: basic "),
        "{to_the_proxy}"
    );
    assert!(
        to_the_proxy.contains("tower-released/") && !to_the_proxy.contains(SECRET),
        "{to_the_proxy}"
    );
    assert!(
        to_released.contains(SECRET) && !to_released.contains("proxy-authorization"),
        "{to_released}"
    );
}

/// Lets one connection through, and answers in Released's place; tells what each of the two was sent.
async fn be_the_proxy(listener: TcpListener, tls: TlsAcceptor) -> (String, String) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let to_the_proxy = read_head(&mut stream).await;
    stream
        .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
        .await
        .unwrap();
    let mut stream = tls.accept(stream).await.unwrap();
    // Not what the server likes best.
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let to_released = read_head(&mut stream).await;
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n\"d.e.f\"")
        .await
        .unwrap();
    stream.shutdown().await.unwrap();
    (to_the_proxy, to_released)
}

async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[test]
fn a_proxy_that_cannot_be_used_is_told_before_any_mint() {
    const NAME: &str = "tls::a_proxy_that_cannot_be_used_is_told_before_any_mint";
    const CHILD: &str = "TOWER_RELEASED_TEST_SOCKS";

    if env::var_os(CHILD).is_some() {
        let error = ReleasedClient::builder("acc", SECRET).build().unwrap_err();
        assert_eq!(error.kind(), ConfigErrorKind::Proxy, "{error}");
        assert!(!error.to_string().contains("pass@"), "{error}");
        return;
    }
    let mut child = Command::new(env::current_exe().unwrap());
    child
        .args(["--exact", NAME])
        .env(CHILD, "1")
        .env("ALL_PROXY", "socks5://ada:pass@127.0.0.1:1");
    for variable in [
        "all_proxy",
        "HTTPS_PROXY",
        "https_proxy",
        "NO_PROXY",
        "no_proxy",
    ] {
        child.env_remove(variable);
    }
    let output = child.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
}
