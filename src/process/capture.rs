//! What a child printed last.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::watch,
};

use super::CAPTURE_BYTES_MAX;

/// The last bytes that were printed.
#[derive(Clone, Debug, Default)]
pub(super) struct Capture(Arc<Mutex<VecDeque<u8>>>);

impl Capture {
    fn keep(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(bytes);
        let excess = kept.len().saturating_sub(CAPTURE_BYTES_MAX);
        kept.drain(..excess);
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

/// A text that is listened for in what a child prints.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    text: Arc<str>,
    was: Arc<watch::Sender<bool>>,
}

impl Heard {
    /// Listens for `text`, as it stands.
    pub(crate) fn of(text: &str) -> Self {
        Self { text: text.into(), was: Arc::new(watch::Sender::new(false)) }
    }

    /// Returns what is listened for.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Waits until it was printed; for ever where it never is.
    pub(crate) async fn wait(&self) {
        // The sender is held here, so that it cannot be gone.
        let _ = self.was.subscribe().wait_for(|was| *was).await;
    }

    /// Looks for it in what came before and `bytes`, and leaves in `rest` as much as may be its beginning.
    fn look(&self, rest: &mut Vec<u8>, bytes: &[u8]) {
        rest.extend(bytes);
        let text = self.text.as_bytes();
        if rest.windows(text.len().max(1)).any(|window| window == text) {
            self.was.send_replace(true);
        }
        let excess = rest.len().saturating_sub(text.len().saturating_sub(1));
        rest.drain(..excess);
    }
}

/// Keeps what comes out of `pipe` until its end, and listens for what is to be `heard`.
pub(super) async fn drain(mut pipe: impl AsyncRead + Unpin, captures: Vec<Capture>, heard: Option<Heard>) {
    let mut buffer = vec![0; 8 * 1024];
    let mut rest = Vec::new();
    loop {
        match pipe.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                for capture in &captures {
                    capture.keep(&buffer[..count]);
                }
                if let Some(heard) = &heard {
                    heard.look(&mut rest, &buffer[..count]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_heard_however_it_is_cut_and_nothing_else_is() {
        for size in 1..12 {
            let heard = Heard::of("listening on");
            let mut rest = Vec::new();
            for part in b"starting, not list".chunks(size) {
                heard.look(&mut rest, part);
            }
            assert!(!*heard.was.borrow() && rest.len() < "listening on".len());
            for part in b"ening\nlistening on 8000\n".chunks(size) {
                heard.look(&mut rest, part);
            }
            assert!(*heard.was.borrow(), "in parts of {size}");
        }
    }
}
