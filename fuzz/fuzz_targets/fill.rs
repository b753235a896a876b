//! Whatever a page is and wherever it is cut, a filled one has the same bytes but for tokens, which follow Released's names.
#![no_main]

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use http::{Request, Response};
use http_body::{Body, Frame};
use hyper::body::Bytes;
use libfuzzer_sys::fuzz_target;
use tower::{Layer, Service, service_fn};
use tower_released::embed::fill::FillLayer;
use tower_released::{AuthToken, MintError, MintTiming, ReleasedTokenLayer, User, resolver_fn};

const TOKEN: &str = " auth-token=\"a-token\"";

/// The pieces of a page, from its end to its start. After each it is `Pending`.
struct Pieces(Vec<Vec<u8>>, bool);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.1 = !self.1;
        if self.1 {
            return Poll::Pending;
        }
        Poll::Ready(self.0.pop().map(|piece| Ok(Frame::data(piece.into()))))
    }
}

fuzz_target!(|input: (Vec<u8>, u8)| {
    let (page, length) = input;
    // It is removed from the output, so that it must not be in the page.
    if page.windows(TOKEN.len()).any(|part| part == TOKEN.as_bytes()) {
        return;
    }
    let mut pieces: Vec<Vec<u8>> = page.chunks(usize::from(length).max(1)).map(<[u8]>::to_vec).collect();
    pieces.reverse();
    let handler = {
        let body = Arc::new(Mutex::new(Some(Pieces(pieces, false))));
        service_fn(move |_: Request<()>| {
            let mut response = Response::new(body.lock().unwrap().take().unwrap());
            response.headers_mut().insert("content-type", "text/html".parse().unwrap());
            std::future::ready(Ok::<_, Infallible>(response))
        })
    };
    let minter = service_fn(|_: User| std::future::ready(AuthToken::new("a-token").map_err(MintError::from)));
    let resolver = resolver_fn(|_| std::future::ready(User::new("ada", "ada@example.com")));
    let layer = ReleasedTokenLayer::new(minter, resolver).timing(MintTiming::OnExtraction);
    let mut service = layer.layer(FillLayer::new().layer(handler));

    let cx = &mut Context::from_waker(Waker::noop());
    let mut response = pin!(service.call(Request::new(())));
    let response = loop {
        if let Poll::Ready(response) = response.as_mut().poll(cx) {
            break response.unwrap();
        }
    };
    let mut body = pin!(response.into_body());
    let mut filled = Vec::new();
    loop {
        match body.as_mut().poll_frame(cx) {
            Poll::Ready(Some(frame)) => filled.extend(frame.unwrap().into_data().unwrap()),
            Poll::Ready(None) => break,
            Poll::Pending => {}
        }
    }

    let mut rest = &filled[..];
    let mut restored: Vec<u8> = Vec::new();
    while let Some(place) = rest.windows(TOKEN.len()).position(|part| part == TOKEN.as_bytes()) {
        let before = rest[..place].to_ascii_lowercase();
        let names: [&[u8]; 3] = [b"<released-page", b"<released-widget", b"<released-form"];
        assert!(names.iter().any(|name| before.ends_with(name)));
        restored.extend(&rest[..place]);
        rest = &rest[place + TOKEN.len()..];
    }
    restored.extend(rest);
    assert_eq!(restored, page);
});
