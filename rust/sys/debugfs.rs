// SPDX-License-Identifier: GPL-2.0

//! A directory of readable files in debugfs, declared as a table. Without debugfs there are no files, and
//! no error is reported.
//!
//! C headers: [`include/linux/debugfs.h`](srctree/include/linux/debugfs.h),
//! [`include/linux/seq_file.h`](srctree/include/linux/seq_file.h)
//!
//! This does not use [`kernel::debugfs`], which sets no owner of a file's operations: a process that closes
//! a file after the module was unloaded would use operations that no longer exist. These files hold a
//! reference to the module while they are open.

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
    /// Writes the text. Called twice if the text is longer than a page.
    pub(crate) show: fn(&T, &mut fmt::Formatter<'_>) -> fmt::Result,
}

/// A file and its state.
struct Node<T: 'static> {
    file: &'static File<T>,
    state: Arc<T>,
}

impl<T> fmt::Display for Node<T> {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        (self.file.show)(&self.state, text)
    }
}

/// A directory in debugfs. Dropping it waits for readers, and removes the directory. Reading a file that is
/// still open returns an error then.
///
/// # Invariants
///
/// `directory` was returned by `ksm_v_debugfs_create_dir()`. Its files refer to `operations` and to
/// elements of `nodes`, which do not move.
pub(crate) struct Directory<T: Send + Sync + 'static> {
    directory: NonNull<bindings::dentry>,
    _nodes: KVec<Node<T>>,
    _operations: KBox<bindings::file_operations>,
}

// SAFETY: Any thread may remove a directory, and `Arc<T>` is `Send`.
unsafe impl<T: Send + Sync> Send for Directory<T> {}
// SAFETY: There are no methods on `&self`, so a shared reference gives access to nothing.
unsafe impl<T: Send + Sync> Sync for Directory<T> {}

impl<T: Send + Sync + 'static> Directory<T> {
    /// Makes a directory with these files, which hold a reference to `module` while they are open.
    ///
    /// Must be the last fallible step of `init`: open files can't keep a module whose `init` fails.
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
        // SAFETY: The names are C strings. The files are removed before the nodes and the operations are
        // freed.
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
        // INVARIANT: The nodes and the operations are on the heap, and no node is added, so neither moves.
        Ok(Directory {
            directory: NonNull::new(directory).ok_or(ENOMEM)?,
            _nodes: nodes,
            _operations: operations,
        })
    }
}

impl<T: Send + Sync> Drop for Directory<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant this is the result of `debugfs_create_dir()`. The function also
        // accepts an error pointer.
        unsafe { shim::ksm_v_debugfs_remove(self.directory.as_ptr()) };
    }
}

/// The operations of the files of `module`.
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
/// Must be called by debugfs, with the inode of a file of a [`Directory<T>`] that is not removed before
/// this returns.
unsafe extern "C" fn open<T: 'static>(
    inode: *mut bindings::inode,
    file: *mut bindings::file,
) -> c_int {
    // SAFETY: The caller passes an inode whose private data is a node, which `show` gets as the private
    // data of the `seq_file`.
    unsafe { bindings::single_open(file, Some(show::<T>), (*inode).i_private) }
}

/// # Safety
///
/// Must be called by `seq_read()`, with a `seq_file` that [`open`] made, of a file that is not removed
/// before this returns.
unsafe extern "C" fn show<T: 'static>(seq: *mut bindings::seq_file, _: *mut c_void) -> c_int {
    // SAFETY: `open` stored a node of the directory as private data. By the invariant of `Directory` the
    // node stays while the file exists. The `seq_file` is valid during this call.
    let (node, seq) = unsafe { (&*(*seq).private.cast::<Node<T>>(), SeqFile::from_raw(seq)) };
    seq_print!(seq, "{node}");
    0
}
