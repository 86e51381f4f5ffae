//! A pipeline to a Redis taken apart: each request and each answer as bytes of its own, so that
//! those a node did not carry out can be said elsewhere, and the answers put in their place.
//!
//! Nothing here is for the usual case, in which every node answers for itself.

use super::Lane;
use super::answers::Read;
use crate::item::Span;
use crate::wire::Reply;
use crate::wire::redis::answer;

impl Lane {
    /// The requests, one by one, as they went out.
    #[cold]
    pub(crate) fn requests(&self, arena: &[u8]) -> Vec<Vec<u8>> {
        let mut out = self.out.clone();
        self.append_tail(&mut out, arena);
        each(&out)
    }

    /// Makes a value that would be sent from `arena`, behind all commands, a part of them: what is
    /// asked next would else stand before it, in its place.
    pub(crate) fn take_tail(&mut self, arena: &[u8]) {
        let mut out = std::mem::take(&mut self.out);
        self.append_tail(&mut out, arena);
        (self.out, self.tail) = (out, Span::default());
    }

    fn append_tail(&self, out: &mut Vec<u8>, arena: &[u8]) {
        if self.tail.len > 0 {
            out.extend_from_slice(self.tail.of(arena));
            out.extend_from_slice(b"\r\n");
        }
    }

    /// The answers, one by one, as they came.
    #[cold]
    pub(crate) fn raw_answers(&self) -> Vec<Vec<u8>> {
        each(self.received())
    }

    /// Puts these in the place of the answers that came.
    #[cold]
    pub(crate) fn answer_with(&mut self, raw: &[Vec<u8>]) {
        self.read = raw.concat();
        self.filled = self.read.len();
        (self.parsed, self.answered) = (0, 0);
        self.answers.clear();
        self.hits.clear();
        self.values = answer::Progress::default();
        self.refused = false;
        // What was cut off in the middle of an answer stays cut off: the lane has its error.
        let (Read::Whole | Read::More(_) | Read::Wrong(_)) = self.read_answers();
    }

    /// Takes the last question away, and its answer if all came.
    #[cold]
    pub(crate) fn take_last(&mut self) -> Option<Reply> {
        let whole = self.answers.len() == self.asks.len();
        self.asks.pop();
        self.answered = self.answered.min(self.asks.len());
        if whole { self.answers.pop() } else { None }
    }
}

fn each(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut at = 0;
    while let Some(end) = answer::end(bytes, at) {
        all.push(bytes.get(at..end).unwrap_or_default().to_vec());
        at = end;
    }
    all
}
