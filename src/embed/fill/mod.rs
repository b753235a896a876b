//! Sets `auth-token` on Released's elements in HTML that knows nothing of tokens, while it streams.
//!
//! [`FillLayer`] is for pages that exist: static sites, any template engine, or an application behind a reverse proxy.
//! It fills `<released-page>`, `<released-widget>` and `<released-form>`. It leaves `<released-badge>` alone: Released
//! documents no token for badges, and a badge on every page would make every page mint.
//!
//! # Example
//!
//! A site of static files:
//!
//! ```
//! # #[cfg(feature = "axum")] {
//! use axum::Router;
//! use tower_http::services::ServeDir;
//! use tower_released::embed::fill::FillLayer;
//! use tower_released::{MintTiming, ReleasedTokenLayer, User, from_extension};
//! # use tower_released::testing::StubMinter;
//! # #[derive(Clone)] struct CurrentUser { id: String, email: String }
//! # let released = StubMinter::new();
//!
//! let vouch = |user: &CurrentUser| User::new(&user.id, &user.email);
//! let app: Router = Router::new()
//!     .fallback_service(ServeDir::new("site"))
//!     .layer(FillLayer::new())
//!     .layer(
//!         ReleasedTokenLayer::new(released, from_extension(vouch))
//!             .timing(MintTiming::OnExtraction),
//!     );
//! // .layer(authentication)
//! // .layer(the CspLayer)
//! // .layer(compression)
//! # }
//! ```
//!
//! # The order of layers
//!
//! From the outside to the inside: compression, [`CspLayer`](super::csp::CspLayer), authentication,
//! [`ReleasedTokenLayer`](crate::ReleasedTokenLayer), `FillLayer`, and then the handler, `ServeDir` or the proxy. With
//! axum's `.layer`, the last one is outermost.
//!
//! # When it mints
//!
//! Choose [`MintTiming::OnExtraction`](crate::MintTiming::OnExtraction): the mint starts when the first element is
//! found, and a page without an element mints nothing. With
//! [`AlongsideHandler`](crate::MintTiming::AlongsideHandler), the mint starts with the handler. With
//! [`BeforeHandler`](crate::MintTiming::BeforeHandler), which is the default, every page waits for Released, and no page
//! can be cached.
//!
//! # What it does to a request
//!
//! First it waits for the resolver, which decides alone whether somebody is signed in. If nobody is, or if the filter
//! skipped the request, the request and its response are not changed. The response can still be cached.
//!
//! If somebody is signed in, the request loses `Accept-Encoding`, because encoded HTML cannot be read. A GET for a
//! document also loses `If-None-Match`, `If-Modified-Since`, `Range` and `If-Range`. A HEAD is not changed.
//!
//! # What it does to a response
//!
//! It reads responses with one `Content-Type: text/html`, without `Content-Encoding`, `Content-Disposition: attachment`
//! and `Cache-Control: no-transform`. A `charset` must be one that browsers know and that starts with ASCII: UTF-8,
//! `windows-*`, `iso-8859-*`, `koi8-*`, `macintosh`, `ibm866`, `gbk`, `gb18030`, `big5`, `euc-jp`, `euc-kr`,
//! `shift_jis` and their aliases. `utf-16` and `iso-2022-jp` are not read. A page without a `charset` is read. Responses
//! with status 1xx, 204, 205, 206 or 304 are not.
//!
//! The page streams. Everything before an element is sent at once. At the element, the page waits for the token, and
//! nothing more is read from the handler meanwhile. Before the head leaves, the layer reads what the handler has
//! ready: up to 64 KiB, up to the first `Pending`, or up to the end. If the response says that it is no longer than
//! 64 KiB, it is read to its end.
//!
//! | found | headers |
//! |---|---|
//! | the end, and no element | not changed |
//! | markup at which the parser stops, and no element before it | not changed |
//! | an element to fill | `Cache-Control: private, no-store`; `Content-Length`, `ETag`, `Last-Modified`, `Accept-Ranges`, digests and the headers that direct CDNs are removed |
//! | no element so far | the same, because an element can still come |
//!
//! These headers do not depend on [`CacheControl`](crate::middleware::CacheControl).
//!
//! # Which elements are filled
//!
//! All elements without `auth-token` and `data-released-auth`, unless [`channels`](FillLayer::channels) names some.
//! Elements in `<template>`, `<svg>` and `<math>` are not filled. Text that looks like an element is not changed: in
//! comments, scripts, styles, `<noscript>`, `<textarea>` and in values of attributes.
//!
//! # Without a token
//!
//! If the mint fails, the attribute is left out, and the page is complete. With
//! [`fallback`](FillLayer::fallback), the element gets `data-released-auth` instead. The same applies to an element that
//! comes after the token has expired, in a page that streams for minutes.
//!
//! # Pages that show other people's HTML
//!
//! Somebody who can put HTML into your page can put an element with a channel of their own there, and its embed gets
//! the token. Name your own channels with [`channels`](FillLayer::channels).
//!
//! # Rust version
//!
//! The feature `fill` needs Rust 1.88.
//!
//! # Errors
//!
//! The layer adds no errors. The inner service's error and the inner body's error pass on.
//!
//! The rest of a page is not changed if the parser cannot go on, which is logged once. It stops in two cases:
//!
//! - It would need more than 1 MiB: for one tag of that length, or for several thousand elements that are never closed.
//! - The markup is ambiguous: a `<style>` or `<textarea>` in a `<select>`, for example, is text to some browsers and
//!   markup to others. So is an `<svg>` or `<math>` that is not closed where it must be, or that has a `<script>`, a
//!   table, or HTML with end tags that are missing or superfluous.
//!
//! # Cancel safety
//!
//! Dropping the response future or the body cancels what it started, the mint included.

mod body;
mod foreign;
mod head;
mod held;
mod layer;
mod page;
mod scanner;
mod service;
mod settings;

pub use self::body::FillBody;
pub use self::layer::{FillLayer, InvalidFallback};
pub use self::service::{FillResponseFuture, FillService};
