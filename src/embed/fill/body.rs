//! The body of a response that may be filled.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use encoding_rs::Encoding;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::head;
use super::page::Page;
use super::settings::Settings;
use crate::pending::PendingToken;

/// How much of a body is read before its response's head leaves, in bytes.
pub(super) const BEFORE_HEAD: usize = 64 << 10;

pin_project! {
    /// The body of a [`FillService`](super::FillService): the inner body, with tokens in its elements.
    ///
    /// # Errors
    ///
    /// Its error is always the inner body's. What was read before the error is sent before it.
    ///
    /// # Cancel safety
    ///
    /// Dropping it also drops the mint, unless somebody else waits for the token.
    pub struct FillBody<B: Body> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<B: Body> {
        // Nothing is filled.
        Passing { #[pin] inner: B },
        // The inner body is in a box, because it was polled before the head left, and the head moves its body.
        Filling { filling: Filling<B> },
    }
}

struct Filling<B: Body> {
    /// `None` after its end.
    inner: Option<Pin<Box<B>>>,
    /// `None` when the rest is not changed.
    page: Option<Box<Page>>,
    /// What comes after the page.
    end: Option<End<B::Error>>,
    /// The head says that the body may have been changed.
    is_changed: bool,
}

enum End<E> {
    Trailers(HeaderMap),
    Error(E),
}

/// What was found before the head left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The page has no element, or none that the parser can find: it has ended, or the parser cannot go on.
    Nothing,
    /// There is an element, or one can still come.
    Possibly,
}

impl<B: Body> FillBody<B> {
    pub(super) fn passing(inner: B) -> Self {
        Self {
            kind: Kind::Passing { inner },
        }
    }

    pub(super) fn filling(
        inner: B,
        encoding: &'static Encoding,
        token: PendingToken,
        settings: Arc<Settings>,
    ) -> Self {
        let filling = Filling {
            inner: Some(Box::pin(inner)),
            page: Some(Box::new(Page::new(encoding, token, settings))),
            end: None,
            is_changed: true,
        };
        Self {
            kind: Kind::Filling { filling },
        }
    }

    /// Reads what the handler has ready, until the head can leave. Sends nothing. `length` is what the head says.
    pub(super) fn poll_head(&mut self, length: Option<u64>, cx: &mut Context<'_>) -> Poll<Found> {
        match &mut self.kind {
            Kind::Passing { .. } => Poll::Ready(Found::Nothing),
            Kind::Filling { filling } => filling.poll_head(length, cx),
        }
    }
}

impl<B: Body> Filling<B> {
    fn poll_head(&mut self, length: Option<u64>, cx: &mut Context<'_>) -> Poll<Found> {
        let length = length.and_then(|length| usize::try_from(length).ok());
        let short = length.filter(|length| *length <= BEFORE_HEAD);
        while let Some(page) = &mut self.page {
            if page.has_element() {
                // The mint starts now rather than when the server first asks for the body.
                let _ = page.poll_token(cx);
                return Poll::Ready(Found::Possibly);
            }
            if !page.can_have_element() {
                page.leave_unchanged();
                break;
            }
            if page.held() >= BEFORE_HEAD && page.has_unread() {
                return Poll::Ready(Found::Possibly);
            }
            if page.read() {
                continue;
            }
            let is_complete = short.is_some_and(|length| page.held() >= length);
            let (Some(inner), false) = (&mut self.inner, is_complete) else {
                page.leave_unchanged();
                break;
            };
            match inner.as_mut().poll_frame(cx) {
                // Files are read on another thread, so that even the smallest is `Pending` at first.
                Poll::Pending if short.is_some() => return Poll::Pending,
                Poll::Pending => return Poll::Ready(Found::Possibly),
                Poll::Ready(frame) => match receive(frame) {
                    // A body of nothing but empty frames must not keep the thread.
                    Received::Data(html) if html.is_empty() => return Poll::Ready(Found::Possibly),
                    Received::Data(html) => page.push(html),
                    Received::End(end) => self.end(end),
                },
            }
        }
        self.is_changed = false;
        Poll::Ready(Found::Nothing)
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        loop {
            if let Some(page) = &mut self.page {
                if let Some(html) = ready!(page.poll_next(cx)) {
                    return Poll::Ready(Some(Ok(Frame::data(html))));
                }
                if page.is_done() {
                    self.page = None;
                }
            }
            match self.end.take() {
                Some(End::Trailers(mut trailers)) => {
                    if self.is_changed {
                        head::remove_digests(&mut trailers);
                    }
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Some(End::Error(error)) => return Poll::Ready(Some(Err(error))),
                None => {}
            }
            let Some(inner) = &mut self.inner else {
                return Poll::Ready(None);
            };
            let frame = ready!(inner.as_mut().poll_frame(cx));
            match (receive(frame), &mut self.page) {
                (Received::Data(html), Some(page)) if !html.is_empty() => page.push(html),
                (Received::Data(html), _) => return Poll::Ready(Some(Ok(Frame::data(html)))),
                (Received::End(end), _) => self.end(end),
            }
        }
    }

    /// Nothing comes after this from the inner body, and it must not be polled again.
    fn end(&mut self, end: Option<End<B::Error>>) {
        self.end = end;
        self.inner = None;
        if let Some(page) = &mut self.page {
            page.finish();
        }
    }

    fn size_hint(&self) -> SizeHint {
        // An exact size would let a server stop before the trailers or the error.
        if self.is_changed || self.end.is_some() {
            return SizeHint::default();
        }
        let held = self.page.as_ref().map_or(0, |page| page.len()) as u64;
        let inner = self
            .inner
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(held));
        if let Some(upper) = inner.upper().and_then(|upper| upper.checked_add(held)) {
            hint.set_upper(upper);
        }
        hint
    }

    fn is_end_stream(&self) -> bool {
        self.end.is_none()
            && self.page.as_ref().is_none_or(|page| page.is_done())
            && self.inner.as_ref().is_none_or(Body::is_end_stream)
    }
}

enum Received<E> {
    /// Possibly empty.
    Data(Bytes),
    End(Option<End<E>>),
}

fn receive<D: Buf, E>(frame: Option<Result<Frame<D>, E>>) -> Received<E> {
    let frame = match frame {
        Some(Ok(frame)) => frame.map_data(bytes_of).into_data(),
        Some(Err(error)) => return Received::End(Some(End::Error(error))),
        None => return Received::End(None),
    };
    match frame.map_err(Frame::into_trailers) {
        Ok(html) => Received::Data(html),
        Err(Ok(trailers)) => Received::End(Some(End::Trailers(trailers))),
        // A kind of frame that `http-body` does not have yet.
        Err(Err(_)) => Received::Data(Bytes::new()),
    }
}

/// No copy if these are `Bytes` already.
fn bytes_of(mut data: impl Buf) -> Bytes {
    data.copy_to_bytes(data.remaining())
}

impl<B: Body> Body for FillBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            KindProjection::Passing { inner } => {
                let frame = ready!(inner.poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(bytes_of))))
            }
            KindProjection::Filling { filling } => filling.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Passing { inner } => inner.is_end_stream(),
            Kind::Filling { filling } => filling.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Passing { inner } => inner.size_hint(),
            Kind::Filling { filling } => filling.size_hint(),
        }
    }
}

/// For answers in the handler's place; see
/// [`reject_without_token`](crate::ReleasedTokenLayer::reject_without_token).
impl<B: Body + Default> Default for FillBody<B> {
    fn default() -> Self {
        Self::passing(B::default())
    }
}

impl<B: Body> fmt::Debug for FillBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let page = match &self.kind {
            Kind::Passing { .. } => None,
            Kind::Filling { filling } => filling.page.as_ref(),
        };
        f.debug_struct("FillBody")
            .field("page", &page)
            .finish_non_exhaustive()
    }
}
