//! A page that is being filled: what was read, what may be sent, and where the token goes.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use encoding_rs::Encoding;

use super::held::Held;
use super::scanner::{Scanner, Unreadable};
use super::settings::Settings;
use crate::pending::PendingToken;
use crate::telemetry::warn;
use crate::token::AuthToken;

/// How much is read at once. A page that comes in one piece is read while it is sent, and a large one does not occupy
/// its thread.
const AT_ONCE: usize = 16 << 10;

/// A page on its way from the handler to the user.
///
/// It holds what the handler sent last, and at most as much before that as the parser needs to find the end of a tag.
/// While it waits for its token, nothing more is read from the handler.
pub(super) struct Page {
    /// `None` when nothing more has to be found.
    scanner: Option<Scanner>,
    /// What the handler sent, and the parser has not seen.
    unread: Bytes,
    /// What the parser has seen, and the user has not.
    held: Held,
    /// How many bytes were sent, those of the token apart.
    sent: usize,
    /// Where the token goes.
    places: VecDeque<usize>,
    token: Token,
    settings: Arc<Settings>,
}

enum Token {
    /// The mint starts when an element is found.
    Pending(PendingToken),
    /// What is written into the element's tag, until the token expires.
    Minted { attribute: Bytes, expires: Instant },
    /// What is written in place of a token, possibly nothing.
    Absent(Bytes),
}

impl Page {
    pub(super) fn new(
        encoding: &'static Encoding,
        token: PendingToken,
        settings: Arc<Settings>,
    ) -> Self {
        Self {
            scanner: Some(Scanner::new(encoding, settings.ids.clone())),
            unread: Bytes::new(),
            held: Held::default(),
            sent: 0,
            places: VecDeque::new(),
            token: Token::Pending(token),
            settings,
        }
    }

    /// Adds what the handler sent. Everything before it must have been read.
    pub(super) fn push(&mut self, html: Bytes) {
        debug_assert!(self.unread.is_empty());
        self.unread = html;
    }

    /// Reads some of what the handler sent. Returns false if there is nothing to read.
    pub(super) fn read(&mut self) -> bool {
        if self.unread.is_empty() {
            return false;
        }
        let html = self.unread.split_to(AT_ONCE.min(self.unread.len()));
        if let Some(scanner) = &mut self.scanner {
            let result = scanner.read(&html);
            scanner.take_found(&mut self.places);
            if let Err(error) = result {
                self.give_up(&error);
            }
        }
        self.held.push(html);
        true
    }

    /// Reads what the handler sent to its end. Nothing comes after it, and so a tag that is not complete is none.
    pub(super) fn finish(&mut self) {
        while self.read() {}
        self.scanner = None;
    }

    /// Waits for the next bytes for the user. Returns `None` when the page needs more from the handler.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            let place = self.places.front().copied();
            let readable = match (place, &self.scanner) {
                (Some(place), _) => place - self.sent,
                (None, Some(scanner)) => scanner.position() - self.sent,
                (None, None) => usize::MAX,
            };
            if place.is_some() {
                // The mint runs while what is before the element is sent.
                let token = self.poll_token(cx);
                if readable == 0 {
                    let token = ready!(token);
                    self.places.pop_front();
                    if !token.is_empty() {
                        return Poll::Ready(Some(token));
                    }
                    continue;
                }
            }
            if readable > 0 {
                let html = self.held.take(readable);
                if !html.is_empty() {
                    self.sent += html.len();
                    return Poll::Ready(Some(html));
                }
            }
            if !self.read() {
                return Poll::Ready(None);
            }
        }
    }

    /// Returns whether an element was found to which nothing was written so far.
    pub(super) fn has_element(&self) -> bool {
        !self.places.is_empty()
    }

    /// Returns whether there is an element to fill, or one can still be found.
    pub(super) fn can_have_element(&self) -> bool {
        self.scanner.is_some() || self.has_element()
    }

    /// Returns whether everything was sent, and the rest of the page is not changed.
    pub(super) fn is_done(&self) -> bool {
        self.scanner.is_none() && self.places.is_empty() && self.len() == 0
    }

    /// Returns how many bytes are here.
    pub(super) fn len(&self) -> usize {
        self.unread.len() + self.held.len()
    }

    /// Returns how many bytes were read and not sent.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Returns whether the handler sent more than was read.
    pub(super) fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    /// Lets the token go, and the rest of the page as it is.
    pub(super) fn leave_unchanged(&mut self) {
        self.scanner = None;
        self.places.clear();
        self.token = Token::Absent(Bytes::new());
    }

    /// Starts the mint, or goes on with it. Returns what is written into the element's tag.
    pub(super) fn poll_token(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        loop {
            match &self.token {
                Token::Absent(attribute) => return Poll::Ready(attribute.clone()),
                Token::Minted { attribute, expires } if Instant::now() < *expires => {
                    return Poll::Ready(attribute.clone());
                }
                // A page can stream for longer than a token lives.
                Token::Minted { .. } => self.go_on_without_token(),
                Token::Pending(pending) => match ready!(pending.poll_get(cx)) {
                    Ok(Some(token)) => {
                        self.token = Token::Minted {
                            attribute: attribute(&token),
                            expires: Instant::now() + token.remaining(),
                        };
                    }
                    // `Ok(None)` does not occur: somebody is signed in.
                    Ok(None) | Err(_) => self.go_on_without_token(),
                },
            }
        }
    }

    fn go_on_without_token(&mut self) {
        match &self.settings.fallback {
            Some(attribute) => self.token = Token::Absent(attribute.clone()),
            None => self.leave_unchanged(),
        }
    }

    fn give_up(&mut self, error: &Unreadable) {
        self.scanner = None;
        if self.settings.warned.cannot_be_read.is_first() {
            warn!(
                "could not read a page to its end, because {error}; elements in the rest of it have no auth token"
            );
        }
    }
}

fn attribute(token: &AuthToken) -> Bytes {
    // A token has no characters that HTML would have to escape: see `AuthToken::new`.
    format!(" auth-token=\"{}\"", token.as_str()).into()
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page")
            .field("held", &self.len())
            .field("sent", &self.sent)
            .finish_non_exhaustive()
    }
}
