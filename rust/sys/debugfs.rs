// SPDX-License-Identifier: GPL-2.0

//! A directory of readable files in debugfs, declared as a table. Where there is no debugfs, there
//! are no files, and nobody is told.
//!
//! C headers: [`include/linux/debugfs.h`](srctree/include/linux/debugfs.h),
//! [`include/linux/seq_file.h`](srctree/include/linux/seq_file.h)
//!
//! Not [`kernel::debugfs`]: that sets no owner of a file's operations. Whoever closes a file after
//! the module is gone would use operations that are gone, too. These files keep the module while
//! they are open.

use crate::shim;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::ffi::c_int;
use kernel::ffi::c_void;
use kernel::fmt;
use kernel::prelude::*;
use kernel::seq_file::SeqFile;
use kernel::seq_print;
use kernel::sync::Arc;

/// Only root may read.
const MODE: u16 = 0o400;

/// One file of a directory whose state is a `T`.
pub(crate) struct File<T: 'static> {
    pub(crate) name: &'static CStr,
    /// Writes the text; called twice where that is longer than a page.
    pub(crate) show: fn(&T, &mut fmt::Formatter<'_>) -> fmt::Result,
}

/// A file, and what it is about.
struct Node<T: 'static> {
    file: &'static File<T>,
    state: Arc<T>,
}

impl<T> fmt::Display for Node<T> {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        (self.file.show)(&self.state, text)
    }
}

/// A directory in debugfs. Dropping it removes it, after the last reader has left. A file that is
/// still open then reads as an error.
///
/// # Invariants
///
/// `directory` is what `ksm_v_debugfs_create_dir()` returned. Its files refer to `operations` and
/// to elements of `nodes`, which are not moved.
pub(crate) struct Directory<T: Send + Sync + 'static> {
    directory: NonNull<bindings::dentry>,
    _nodes: KVec<Node<T>>,
    _operations: KBox<bindings::file_operations>,
}

// SAFETY: An entry may be removed from any thread; `Arc<T>` is `Send`.
unsafe impl<T: Send + Sync> Send for Directory<T> {}
// SAFETY: There is nothing to reach through a shared reference.
unsafe impl<T: Send + Sync> Sync for Directory<T> {}

impl<T: Send + Sync + 'static> Directory<T> {
    /// Makes a directory with these files, which keep `module` while they are open. That is nothing
    /// to a module whose `init` fails: nothing may fail in that any more.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(
        module: &'static ThisModule,
        name: &CStr,
        files: &'static [File<T>],
        state: Arc<T>,
    ) -> Result<Self> {
        let mut nodes = KVec::with_capacity(files.len(), GFP_KERNEL)?;
        for file in files {
            let state = state.clone();
            nodes.push(Node { file, state }, GFP_KERNEL)?;
        }
        let operations = KBox::new(operations::<T>(module), GFP_KERNEL)?;
        // SAFETY: The name is a C string. The files are gone before nodes and operations are.
        let directory = unsafe {
            let directory = shim::ksm_v_debugfs_create_dir(name.as_char_ptr());
            for node in &nodes {
                shim::ksm_v_debugfs_create_file(
                    node.file.name.as_char_ptr(),
                    MODE,
                    directory,
                    core::ptr::from_ref(node).cast_mut().cast(),
                    &*operations,
                );
            }
            directory
        };
        // INVARIANT: Neither is moved: both are on the heap, and nothing is added to the nodes.
        Ok(Directory {
            directory: NonNull::new(directory).ok_or(ENOMEM)?,
            _nodes: nodes,
            _operations: operations,
        })
    }
}

impl<T: Send + Sync> Drop for Directory<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; takes errors, too.
        unsafe { shim::ksm_v_debugfs_remove(self.directory.as_ptr()) };
    }
}

/// The operations of the files of a module.
fn operations<T: 'static>(module: &'static ThisModule) -> bindings::file_operations {
    bindings::file_operations {
        owner: module.as_ptr(),
        open: Some(open::<T>),
        read: Some(bindings::seq_read),
        llseek: Some(bindings::seq_lseek),
        release: Some(bindings::single_release),
        ..pin_init::zeroed()
    }
}

/// # Safety
///
/// Called by debugfs, with the inode of a file of a [`Directory<T>`] that is there until this
/// returns.
unsafe extern "C" fn open<T: 'static>(
    inode: *mut bindings::inode,
    file: *mut bindings::file,
) -> c_int {
    // SAFETY: The inode's private data is a node, as is that of the `seq_file` then.
    unsafe { bindings::single_open(file, Some(show::<T>), (*inode).i_private) }
}

/// # Safety
///
/// Called by `seq_read()`, with a `seq_file` that [`open`] has made, of a file that is there until
/// this returns.
unsafe extern "C" fn show<T: 'static>(seq: *mut bindings::seq_file, _: *mut c_void) -> c_int {
    // SAFETY: By the type invariant of the directory.
    let (node, seq) = unsafe { (&*(*seq).private.cast::<Node<T>>(), SeqFile::from_raw(seq)) };
    seq_print!(seq, "{node}");
    0
}
