mod recall;

mod store;

use std::path::PathBuf;

use kloros_actors::facts::{Role, Said, Talk};

use super::Conversations;

/// A file of conversations in a folder that goes with it.
pub(super) struct World {
    folder: tempfile::TempDir,
    pub(super) conversations: Conversations,
}

impl World {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let conversations = Conversations::open(&folder.path().join("conversations.db")).unwrap();
        Self { folder, conversations }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.path().join("conversations.db")
    }

    /// Returns whether these bytes stand in any file of the folder.
    pub(super) fn holds(&self, needle: &[u8]) -> bool {
        std::fs::read_dir(self.folder.path()).unwrap().any(|entry| {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            bytes.windows(needle.len()).any(|window| window == needle)
        })
    }
}

pub(super) fn talk(name: &str) -> Talk {
    Talk::new(name, "me")
}

pub(super) fn said(role: Role, text: &str, at_ms: u64) -> Said {
    Said { role, text: text.to_owned(), at_ms }
}
