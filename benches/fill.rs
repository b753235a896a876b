//! What it costs to fill pages that know nothing of tokens.
//!
//! The CPU time of a filled page stands beside `lol_html` alone with the same selectors, which changes the page in
//! memory and has its token already. A page that passes stands beside the same server without a layer. Then how long a
//! visitor waits, and how much memory pages take that wait for their token.

#![allow(clippy::cast_precision_loss, clippy::print_stdout, clippy::unwrap_used)]

mod support;

use std::convert::Infallible;
use std::future::{Ready, poll_fn, ready};
use std::hint::black_box;
use std::pin::pin;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Html;
use axum::routing::get;
use axum::{Extension, Router};
use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::{FutureExt, stream};
use http::header::CONTENT_TYPE;
use http::{Request, Response};
use http_body_util::BodyExt;
use lol_html::{HtmlRewriter, Settings, element};
use support::{
    ADA, CurrentUser, Ratios, Server, Site, client, is_measured, runtime, thread_cpu_time, vouch,
};
use tower::{Layer, Service, service_fn};
use tower_released::embed::fill::FillLayer;
use tower_released::testing::StubMinter;
use tower_released::{MintTiming, ReleasedTokenLayer, from_extension};

/// Counts what is allocated.
#[global_allocator]
static HEAP: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, usize::MAX);

const WITH_TOKEN: &str = "auth-token=\"eyJ";

/// How much a server reads of a file at once, and how much `FillLayer` reads of a page.
const CHUNK: usize = 16 << 10;

/// A page of this length, like those of a blog: some six tags in each 300 bytes. Its element is in the middle.
fn page(length: usize) -> Bytes {
    const HEAD: &str =
        "<!doctype html><html><head><meta charset=\"utf-8\"><title>Roadmap</title></head><body>";
    const ELEMENT: &str = "<released-page channel-id=\"c1\"></released-page>";
    const POST: &str = "<article class=\"post\"><h2><a href=\"/posts/2024/a-post\">A post</a></h2><p>Lorem ipsum dolor sit \
         amet, <em>consectetur</em> adipiscing elit, sed do eiusmod tempor incididunt ut labore et dolore magna aliqua. Ut \
         enim ad minim veniam, quis nostrud exercitation.</p><img src=\"/i.png\" alt=\"\"></article>\n";

    let half = POST.repeat(length / POST.len() / 2);
    format!("{HEAD}{half}{ELEMENT}{half}</body></html>").into()
}

/// A handler that sends this page, piece by piece.
fn handler(
    page: Bytes,
) -> impl Service<
    Request<()>,
    Response = Response<Body>,
    Error = Infallible,
    Future = Ready<Result<Response<Body>, Infallible>>,
> + Clone {
    service_fn(move |request: Request<()>| {
        black_box(&request);
        let response = Response::builder().header(CONTENT_TYPE, "text/html; charset=utf-8");
        ready(Ok(response.body(pieces(page.clone())).unwrap()))
    })
}

fn pieces(page: Bytes) -> Body {
    let pieces = (0..page.len()).step_by(CHUNK);
    let pieces = pieces.map(move |at| {
        let end = page.len().min(at + CHUNK);
        Ok::<_, Infallible>(page.slice(at..end))
    });
    Body::from_stream(stream::iter(pieces))
}

fn request() -> Request<()> {
    let mut request = Request::new(());
    request.extensions_mut().insert(ADA);
    request
}

/// Nothing in it waits, so it needs no runtime.
fn visit<S, B>(service: &mut S)
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: http_body::Body<Data = Bytes>,
{
    let response = service.call(request()).now_or_never().unwrap().unwrap();
    let mut body = pin!(response.into_body());
    let mut length = 0;
    while let Some(Ok(frame)) = body.frame().now_or_never().unwrap() {
        length += frame.into_data().unwrap_or_default().len();
    }
    black_box(length);
}

/// What it takes at the least: the pieces of a page go through the parser, and those that come out are sent.
fn rewrite(
    service: &mut impl Service<
        Request<()>,
        Response = Response<Body>,
        Error = Infallible,
        Future: Future,
    >,
) {
    let response = service.call(request()).now_or_never().unwrap();
    let response = response.unwrap();
    let token = "stub-token-1";
    let fill = |element: &mut lol_html::html_content::Element<'_, '_>| {
        Ok(element.set_attribute("auth-token", token)?)
    };
    let leave = |_: &mut lol_html::html_content::Element<'_, '_>| Ok(());
    let settings = Settings::new()
        .append_element_content_handler(element!("released-page", fill))
        .append_element_content_handler(element!("released-widget", fill))
        .append_element_content_handler(element!("released-form", fill))
        .append_element_content_handler(element!("template", leave))
        .append_element_content_handler(element!("select", leave))
        .append_element_content_handler(element!("frameset, template > col", leave))
        .append_element_content_handler(element!("svg, math, svg *, math *", leave));
    let mut written = Vec::new();
    let mut length = 0;
    let mut rewriter = HtmlRewriter::new(settings, |chunk: &[u8]| {
        written.extend_from_slice(chunk);
        // A piece is sent when it is complete.
        if written.len() >= CHUNK {
            length += std::mem::take(&mut written).len();
        }
    });
    let mut body = pin!(response.into_body());
    while let Some(Ok(frame)) = body.frame().now_or_never().unwrap() {
        rewriter.write(&frame.into_data().unwrap()).unwrap();
    }
    rewriter.end().unwrap();
    black_box((length, written));
}

fn cpu_time(pages: u64, mut visit: impl FnMut()) -> Duration {
    let before = thread_cpu_time();
    for _ in 0..pages {
        visit();
    }
    thread_cpu_time().saturating_sub(before)
}

fn filled(criterion: &mut Criterion) {
    let runtime = runtime();
    let _guard = runtime.enter();
    let tokens = ReleasedTokenLayer::new(StubMinter::new(), from_extension(vouch))
        .timing(MintTiming::OnExtraction);
    let mut ratios = Ratios::default();
    let mut group = criterion.benchmark_group("fill, CPU time of a filled page");
    for (name, length) in [("8 KiB", 8), ("64 KiB", 64), ("512 KiB", 512)] {
        let mut handler = handler(page(length << 10));
        let mut own = tokens.layer(FillLayer::new().layer(handler.clone()));
        group.bench_function(name, |bencher| {
            ratios.measure(
                bencher,
                name,
                |pages| cpu_time(pages, || visit(&mut own)),
                |pages| cpu_time(pages, || rewrite(&mut handler)),
            );
        });
    }
    group.finish();
    ratios.print("lol_html alone");
}

/// An extension that the resolver does not look for.
#[derive(Clone)]
struct Other(#[expect(dead_code, reason = "the same to copy")] CurrentUser);

/// What every page has in it.
const TITLE: &str = "<title>Roadmap</title>";

fn passing(criterion: &mut Criterion) {
    let mut ratios = Ratios::default();
    let mut group = criterion.benchmark_group("fill, CPU time of a server whose pages pass");
    for (size, length) in [("8 KiB", 8), ("64 KiB", 64), ("512 KiB", 512)] {
        let page = page(length << 10);
        let html = || {
            let page = page.clone();
            Router::new().route("/roadmap", get(async move || Html(page)))
        };
        let text = || {
            let page = page.clone();
            Router::new().route("/roadmap", get(async move || page))
        };
        let tokens = |api: &Server| {
            ReleasedTokenLayer::new(client(api), from_extension(vouch))
                .timing(MintTiming::OnExtraction)
        };
        let both =
            |app: Router, api: &Server| app.route_layer(FillLayer::new()).route_layer(tokens(api));
        let open = |app: &dyn Fn(&Server) -> Router| Site::open(Server::api(), app, &[], TITLE);
        let mut without = open(&|_| html().layer(Extension(Other(ADA))));
        let mut nobody = open(&|api| both(html(), api).layer(Extension(Other(ADA))));
        let mut nobody_without_fill =
            open(&|api| html().route_layer(tokens(api)).layer(Extension(Other(ADA))));
        let mut not_html = open(&|api| both(text(), api).layer(Extension(ADA)));
        for (name, site) in [
            ("nobody is signed in", &mut nobody),
            (
                "nobody is signed in, ReleasedTokenLayer alone",
                &mut nobody_without_fill,
            ),
            ("not HTML, and somebody is signed in", &mut not_html),
        ] {
            let name = format!("{size}, {name}");
            group.bench_function(&name, |bencher| {
                ratios.measure(
                    bencher,
                    &name,
                    |pages| site.cpu_time(pages),
                    |pages| without.cpu_time(pages),
                );
            });
        }
    }
    group.finish();
    ratios.print("no layer");
}

const API: Duration = Duration::from_millis(80);
const HANDLER: Duration = Duration::from_millis(5);

/// A page of 64 KiB that takes its time.
fn slow(takes: Duration) -> Router {
    let page = page(64 << 10);
    let roadmap = async move || {
        tokio::time::sleep(takes).await;
        Html(page)
    };
    Router::new().route("/roadmap", get(roadmap))
}

fn slow_and_filled(api: &Server, timing: MintTiming) -> Router {
    let tokens = ReleasedTokenLayer::new(client(api), from_extension(vouch)).timing(timing);
    slow(HANDLER)
        .route_layer(FillLayer::new())
        .route_layer(tokens)
        .layer(Extension(ADA))
}

fn latencies(criterion: &mut Criterion) {
    let open = |app: &dyn Fn(&Server) -> Router, expected| {
        Site::open_to_one(Server::slow_api(API), app, expected)
    };
    let mut on_extraction = open(
        &|api| slow_and_filled(api, MintTiming::OnExtraction),
        WITH_TOKEN,
    );
    let mut alongside = open(
        &|api| slow_and_filled(api, MintTiming::AlongsideHandler),
        WITH_TOKEN,
    );
    let mut handler = open(&|_| slow(HANDLER), "released-page");
    let mut slower = open(&|_| slow(API), "released-page");

    let mut group = criterion.benchmark_group("fill, an API of 80 ms and a handler of 5");
    group.sample_size(10);
    let mut first_byte = Ratios::default();
    let mut whole = Ratios::default();
    for (name, site) in [
        ("OnExtraction", &mut on_extraction),
        ("AlongsideHandler", &mut alongside),
    ] {
        group.bench_function(format!("first byte, {name}"), |bencher| {
            first_byte.measure(
                bencher,
                name,
                |pages| site.latency_of_first_byte(pages),
                |pages| handler.latency_of_first_byte(pages),
            );
        });
        group.bench_function(format!("whole page, {name}"), |bencher| {
            whole.measure(
                bencher,
                name,
                |pages| site.latency(pages),
                |pages| slower.latency(pages),
            );
        });
    }
    group.finish();
    first_byte.print("the first byte without a layer");
    whole.print("a page of 80 ms without a layer");
}

/// A thousand pages wait for their token. Their text is shared, so that only what the layers hold counts.
fn memory(_: &mut Criterion) {
    let pages = if is_measured() { 1000 } else { 10 };
    let runtime = runtime();
    let minter = StubMinter::new().with_latency(Duration::from_secs(600));
    let tokens =
        ReleasedTokenLayer::new(minter, from_extension(vouch)).timing(MintTiming::OnExtraction);
    let handler = handler(page(64 << 10));
    let mut own = tokens.layer(FillLayer::new().layer(handler.clone()));
    let mut alone = handler;
    runtime.block_on(async {
        // What is made once.
        drop(wait(&mut own).await);
        let before = HEAP.allocated();
        let mut waiting = Vec::with_capacity(pages);
        for _ in 0..pages {
            waiting.push(wait(&mut own).await);
        }
        let filled = HEAP.allocated() - before;
        drop(waiting);
        let left = HEAP.allocated().saturating_sub(before);

        let before = HEAP.allocated();
        let mut responses = Vec::with_capacity(pages);
        for _ in 0..pages {
            responses.push(alone.call(request()).await.unwrap());
        }
        let unfilled = HEAP.allocated() - before;
        drop(responses);
        if is_measured() {
            let each = |bytes: usize| bytes as f64 / pages as f64 / 1024.0;
            println!(
                "\n{pages} pages that wait: {:.2} KiB of heap each; without a layer {:.2} KiB; {left} bytes afterwards",
                each(filled),
                each(unfilled)
            );
        }
    });
}

/// Visits a page until it waits for its token.
async fn wait<S, B>(service: &mut S) -> http::response::Response<std::pin::Pin<Box<B>>>
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: http_body::Body<Data = Bytes>,
{
    let response = service.call(request()).await.unwrap();
    let mut response = response.map(Box::pin);
    let read = poll_fn(|cx| {
        while response.body_mut().as_mut().poll_frame(cx).is_ready() {}
        std::task::Poll::Ready(())
    });
    read.await;
    response
}

criterion_group!(benches, filled, passing, latencies, memory);
criterion_main!(benches);
