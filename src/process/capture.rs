//! What a child printed last.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::io::{AsyncRead, AsyncReadExt};

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

/// Keeps what comes out of `pipe` until its end.
pub(super) async fn drain(mut pipe: impl AsyncRead + Unpin, captures: Vec<Capture>) {
    let mut buffer = vec![0; 8 * 1024];
    loop {
        match pipe.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => captures.iter().for_each(|capture| capture.keep(&buffer[..count])),
        }
    }
}
