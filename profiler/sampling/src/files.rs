//! One [`MappedFile`] per file, shared by every mapping and every frame that names it.

use std::sync::Arc;

use hashbrown::HashMap;
use pyrite_model::FileKey;

use crate::MappedFile;

/// Files are looked through for unused ones no earlier than at this many.
const FIRST_PRUNE: usize = 1024;

/// Shared files by key. Files that nothing refers to any more are dropped when their number has doubled.
#[derive(Debug)]
pub(crate) struct Files {
    by_key: HashMap<FileKey, Arc<MappedFile>>,
    prune_at: usize,
}

impl Files {
    pub(crate) fn new() -> Self {
        Self { by_key: HashMap::new(), prune_at: FIRST_PRUNE }
    }

    /// The shared file of this key and path. A file met under another path than before is another one from now on: it was
    /// renamed, or its inode number was used again.
    pub(crate) fn intern(&mut self, key: FileKey, path: &Arc<str>) -> Arc<MappedFile> {
        if let Some(file) = self.by_key.get(&key).filter(|file| file.path == *path) {
            return Arc::clone(file);
        }
        if self.by_key.len() >= self.prune_at {
            self.by_key.retain(|_, file| Arc::strong_count(file) > 1);
            self.prune_at = FIRST_PRUNE.max(2 * self.by_key.len());
        }
        let file = Arc::new(MappedFile { key, path: Arc::clone(path) });
        self.by_key.insert(key, Arc::clone(&file));
        file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_shared_until_its_path_changes_and_unused_ones_go() {
        let mut files = Files::new();
        let key = |inode| FileKey { dev_major: 1, dev_minor: 2, inode };
        let kept = files.intern(key(1), &"/a".into());
        for inode in 2..3000 {
            files.intern(key(inode), &"/b".into());
        }
        assert!(files.by_key.len() <= FIRST_PRUNE + 1);
        assert!(Arc::ptr_eq(&kept, &files.intern(key(1), &"/a".into())));
        assert!(!Arc::ptr_eq(&kept, &files.intern(key(1), &"/c".into())));
    }
}
