//! A request that the filter passes over costs no allocation, a mint no more than the same request by hand, and a reply no more
//! memory than it is long. Counted, on this thread, by an allocator of its own.

#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{Request, Response};
use tower::{Layer, Service, service_fn};
use tower_released::client::RetryConfig;
use tower_released::testing::{FakeReleased, StubMinter};
use tower_released::{MintTiming, ReleasedClient, ReleasedTokenLayer, User, from_extension};

/// A handler that allocates, as handlers do.
async fn page(request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, Infallible> {
    Ok(Response::new(request.uri().path().as_bytes().repeat(3)))
}

/// How often one call allocates, from the call to the response.
fn allocations<S>(mut service: S, request: Request<Vec<u8>>) -> u64
where
    S: Service<Request<Vec<u8>>, Response = Response<Vec<u8>>>,
{
    let info = allocation_counter::measure(|| {
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(service.poll_ready(cx).is_ready());
        let response = pin!(service.call(request));
        assert!(matches!(response.poll(cx), Poll::Ready(Ok(_))));
    });
    info.count_total
}

fn image() -> Request<Vec<u8>> {
    let mut request = Request::builder()
        .uri("https://app.example/logo.png")
        .header("sec-fetch-dest", "image")
        .header("accept", "image/avif")
        .body(vec![1])
        .unwrap();
    // Signed in, so that it is the filter alone that spares the mint.
    request
        .extensions_mut()
        .insert(User::new("ada", "ada@example.com").unwrap());
    request
}

#[test]
fn a_filtered_request_allocates_no_more_than_its_handler() {
    let alone = allocations(service_fn(page), image());
    assert!(alone > 0, "the counter counts");

    let layer = ReleasedTokenLayer::new(StubMinter::new(), from_extension(User::clone));
    assert_eq!(allocations(layer.layer(service_fn(page)), image()), alone);
    for timing in [
        MintTiming::BeforeHandler,
        MintTiming::AlongsideHandler,
        MintTiming::OnExtraction,
    ] {
        let layer = layer.clone().timing(timing);
        assert_eq!(
            allocations(layer.layer(service_fn(page)), image()),
            alone,
            "{timing:?}"
        );
    }
    let layer = layer.reject_without_token();
    assert_eq!(
        allocations(layer.layer(service_fn(page)), image()),
        alone,
        "strict"
    );

    // What is not filtered does allocate, so it is not that nothing happens at all.
    let mut navigation = image();
    navigation.headers_mut().remove("sec-fetch-dest");
    navigation.headers_mut().remove("accept");
    assert!(allocations(layer.layer(service_fn(page)), navigation) > alone);
}

/// A fake of Released on a thread of its own, so that what it allocates is not counted.
fn released_elsewhere() -> FakeReleased {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            tell.send(FakeReleased::start().await.unwrap()).unwrap();
            std::future::pending::<()>().await;
        });
    });
    told.recv().unwrap()
}

#[test]
fn a_mint_allocates_no_more_than_the_same_post_through_bare_reqwest() {
    let released = released_elsewhere();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let client = released.client().unwrap();
    let user = User::new("ada", "ada@example.com").unwrap();
    let (http, url, secret) = (
        reqwest::Client::builder().no_proxy().build().unwrap(),
        released.impersonation_url(),
        released.shared_secret(),
    );
    let body = serde_json::json!({"account_id": released.account_id(), "user_id": "ada", "user_email": "ada@example.com"});
    let by_hand = async || {
        let response = http
            .post(&url)
            .bearer_auth(&secret)
            .json(&body)
            .send()
            .await
            .unwrap();
        response.json::<String>().await.unwrap()
    };

    // The least of some, as what is read in how many pieces is the kernel's to say; and not of the first, which connects.
    let least = |one: &dyn Fn()| {
        (0..20)
            .map(|_| allocation_counter::measure(one).count_total)
            .min()
            .unwrap()
    };
    let own = least(&|| drop(runtime.block_on(client.mint(&user)).unwrap()));
    let bare = least(&|| drop(runtime.block_on(by_hand())));
    assert!(
        0 < own && own <= bare,
        "{own} allocations, and {bare} by hand"
    );
    assert!(own <= 17, "{own} allocations");
    assert_eq!(released.counts().minted, 40);
}

/// Hyper reads into buffers of 8 KiB, and whoever keeps a byte of one keeps it whole.
#[test]
fn a_reply_that_comes_byte_by_byte_takes_no_more_memory_than_its_length() {
    const LENGTH: usize = 8000;

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}/token", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
        write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n\"",
            LENGTH + 2
        )
        .unwrap();
        (0..LENGTH).for_each(|_| stream.write_all(b"a").unwrap());
        stream.write_all(b"\"").unwrap();
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let minute = Duration::from_secs(60);
    let mut retry = RetryConfig::default();
    retry.attempt_timeout = minute;
    let client = ReleasedClient::builder("acc", "secret")
        .endpoint(endpoint)
        .deadline(minute)
        .retry(retry);
    let client = client.build().unwrap();
    let user = User::new("ada", "ada@example.com").unwrap();
    let info = allocation_counter::measure(|| {
        assert_eq!(
            runtime.block_on(client.mint(&user)).unwrap().as_str().len(),
            LENGTH
        );
    });
    assert!(
        info.bytes_max < 150 * 1024,
        "{} bytes at once",
        info.bytes_max
    );
}
