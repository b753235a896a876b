//! Whatever is given as an endpoint, a secret goes over TLS or stays on this machine.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Some(accepted) = tower_released::fuzzing::parse_endpoint(text) else { return };
    let (scheme, rest) = accepted.split_once("://").unwrap();
    let authority = rest.split('/').next().unwrap();
    assert!(!authority.contains('@') && !rest.contains(['?', '#']), "{accepted}");
    match scheme {
        "https" => {}
        "http" => {
            let host = match authority.strip_prefix('[') {
                Some(ipv6) => ipv6.split(']').next().unwrap(),
                None => authority.split(':').next().unwrap(),
            };
            let is_loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
            assert!(is_loopback, "{accepted}");
        }
        other => panic!("{other}: {accepted}"),
    }
});
