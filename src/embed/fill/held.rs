//! The part of a page that was read and not yet sent.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

/// Chunks that are shorter are copied together. A tag that comes byte by byte would otherwise take forty times its
/// length.
const SHORT: usize = 1024;

/// Bytes in order. Those of long chunks are not copied.
#[derive(Debug, Default)]
pub(super) struct Held {
    chunks: VecDeque<Bytes>,
    /// Short chunks, which come after all others.
    tail: BytesMut,
}

impl Held {
    pub(super) fn push(&mut self, chunk: Bytes) {
        if chunk.len() < SHORT {
            self.tail.extend_from_slice(&chunk);
            return;
        }
        if !self.tail.is_empty() {
            self.chunks.push_back(self.tail.split().freeze());
        }
        self.chunks.push_back(chunk);
    }

    /// Takes bytes from the front: at least one, if there is one, and at most this many.
    pub(super) fn take(&mut self, most: usize) -> Bytes {
        let Some(front) = self.chunks.front_mut() else {
            return self.tail.split_to(most.min(self.tail.len())).freeze();
        };
        let taken = front.split_to(most.min(front.len()));
        if !front.has_remaining() {
            self.chunks.pop_front();
        }
        taken
    }

    pub(super) fn len(&self) -> usize {
        self.tail.len() + self.chunks.iter().map(Bytes::len).sum::<usize>()
    }
}
