// SPDX-License-Identifier: GPL-2.0

//! Directories of attributes in sysfs, each declared as a table.
//!
//! C headers: [`include/linux/kobject.h`](srctree/include/linux/kobject.h),
//! [`include/linux/sysfs.h`](srctree/include/linux/sysfs.h)

use crate::sys::imports::Imports;
use core::fmt::Write;
use core::mem::offset_of;
use kernel::bindings;
use kernel::error::from_result;
use kernel::error::to_result;
use kernel::ffi::c_char;
use kernel::ffi::c_int;
use kernel::fmt;
use kernel::prelude::*;
use kernel::str::as_char_ptr_in_const_context;
use kernel::sync::Completion;
use kernel::types::Opaque;

/// One file of a directory whose state is a `T`.
#[repr(C)]
pub(crate) struct Attribute<T: 'static> {
    attr: bindings::attribute,
    show: fn(&T, &mut Text<'_>) -> Result,
    store: Option<fn(&T, &[u8]) -> Result>,
}

// SAFETY: The name is a string literal, the rest are values.
unsafe impl<T> Sync for Attribute<T> {}

impl<T> Attribute<T> {
    /// A file that everybody may read.
    pub(crate) const fn read_only(
        name: &'static CStr,
        show: fn(&T, &mut Text<'_>) -> Result,
    ) -> Self {
        Attribute {
            // With lockdep there are more fields.
            #[allow(clippy::needless_update)]
            attr: bindings::attribute {
                name: as_char_ptr_in_const_context(name),
                mode: 0o444,
                // SAFETY: All further fields (of lockdep) are valid as zeroes.
                ..unsafe { core::mem::zeroed() }
            },
            show,
            store: None,
        }
    }

    /// A file that everybody may read, and root with `CAP_SYS_ADMIN` may write.
    pub(crate) const fn read_write(
        name: &'static CStr,
        show: fn(&T, &mut Text<'_>) -> Result,
        store: fn(&T, &[u8]) -> Result,
    ) -> Self {
        let mut attribute = Self::read_only(name, show);
        attribute.attr.mode = 0o644;
        attribute.store = Some(store);
        attribute
    }

    /// A file that nobody may read, and root with `CAP_SYS_ADMIN` may write.
    pub(crate) const fn write_only(name: &'static CStr, store: fn(&T, &[u8]) -> Result) -> Self {
        let mut attribute = Self::read_write(name, |_, _| Err(EACCES), store);
        attribute.attr.mode = 0o200;
        attribute
    }
}

/// What a file's reader will get: at most a page of text.
pub(crate) struct Text<'a> {
    buffer: &'a mut [u8],
    len: usize,
}

impl Text<'_> {
    /// Appends a value and a newline.
    pub(crate) fn line(&mut self, value: impl core::fmt::Display) -> Result {
        writeln!(self, "{value}").map_err(|_| EMSGSIZE)
    }
}

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len.checked_add(text.len()).ok_or(fmt::Error)?;
        let room = self.buffer.get_mut(self.len..end).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// The kobject and what its files are about. Pinned: sysfs points to it.
#[pin_data]
struct Node<T> {
    #[pin]
    kobj: Opaque<bindings::kobject>,
    #[pin]
    released: Completion,
    state: T,
}

/// What a directory is made of.
pub(crate) struct Listing<T: 'static> {
    pub(crate) name: &'static CStr,
    pub(crate) files: &'static [Attribute<T>],
    /// What the files are about.
    pub(crate) state: T,
}

/// A directory in sysfs, and one in it.
pub(crate) struct Tree<T: Send + Sync + 'static, U: Send + Sync + 'static> {
    // Dropped in this order.
    _inner: Directory<U>,
    _outer: Directory<T>,
}

impl<T: Send + Sync + 'static, U: Send + Sync + 'static> Tree<T, U> {
    /// Makes the directory `outer` in `/sys/kernel/mm`, and `inner` in that.
    ///
    /// # Errors
    ///
    /// `EEXIST` where something has such a name; `ENOMEM`.
    pub(crate) fn under_mm(imports: Imports, outer: Listing<T>, inner: Listing<U>) -> Result<Self> {
        // SAFETY: `/sys/kernel/mm` is never removed.
        let outer = unsafe { Directory::new(imports.mm_kobj(), outer)? };
        // SAFETY: The outer directory is dropped after the inner one.
        let inner = unsafe { Directory::new(outer.node.kobj.get(), inner)? };
        Ok(Tree {
            _inner: inner,
            _outer: outer,
        })
    }
}

/// A directory in sysfs. Dropping it removes it, after the last reader and writer has left.
///
/// # Invariants
///
/// The kobject of `node` was added and is not released yet.
struct Directory<T: Send + Sync + 'static> {
    node: Pin<KBox<Node<T>>>,
}

// SAFETY: A kobject may be removed from any thread.
unsafe impl<T: Send + Sync> Send for Directory<T> {}
// SAFETY: Only `state` can be reached through a shared reference.
unsafe impl<T: Send + Sync> Sync for Directory<T> {}

impl<T: Send + Sync + 'static> Directory<T> {
    /// Makes a directory below `parent`.
    ///
    /// # Safety
    ///
    /// `parent` must be a kobject that outlives the directory.
    ///
    /// # Errors
    ///
    /// `EEXIST` where something has this name; `ENOMEM`.
    unsafe fn new(parent: *mut bindings::kobject, listing: Listing<T>) -> Result<Self> {
        let Listing { name, files, state } = listing;
        let node = KBox::pin_init(
            pin_init!(Node {
                // A kobject begins its life as zeroes.
                kobj <- pin_init::init_zeroed(),
                released <- Completion::new(),
                state,
            }),
            GFP_KERNEL,
        )?;
        let kobj = node.kobj.get();
        // SAFETY: The kobject is zeroed and pinned, its type is static, the name is formatted by
        // "%s", and the caller promises that the parent lives.
        let added = to_result(unsafe {
            bindings::kobject_init_and_add(
                kobj,
                &Self::TYPE,
                parent,
                c"%s".as_char_ptr(),
                name.as_char_ptr(),
            )
        });
        // INVARIANT: It was added, or (on error) only initialised: removal copes with either.
        let directory = Directory { node };
        added?;
        for attribute in files {
            // SAFETY: The kobject was added; the attribute is static.
            to_result(unsafe {
                bindings::sysfs_create_file_ns(kobj, &attribute.attr, core::ptr::null())
            })?;
        }
        Ok(directory)
    }

    const OPS: bindings::sysfs_ops = bindings::sysfs_ops {
        show: Some(Self::show),
        store: Some(Self::store),
    };

    const TYPE: bindings::kobj_type = bindings::kobj_type {
        release: Some(Self::release),
        sysfs_ops: &Self::OPS,
        default_groups: core::ptr::null_mut(),
        child_ns_type: None,
        namespace: None,
        get_ownership: None,
    };

    /// The node around `kobj`.
    ///
    /// # Safety
    ///
    /// `kobj` must be the kobject of a `Node<T>` that lives for `'a`.
    unsafe fn node<'a>(kobj: *mut bindings::kobject) -> &'a Node<T> {
        // SAFETY: Promised by the caller; `Opaque` is transparent.
        unsafe { &*kobj.byte_sub(offset_of!(Node<T>, kobj)).cast() }
    }

    /// # Safety
    ///
    /// Called by sysfs, with a kobject of [`Self::TYPE`], an attribute of its table, and a buffer
    /// of a page.
    unsafe extern "C" fn show(
        kobj: *mut bindings::kobject,
        attr: *mut bindings::attribute,
        buffer: *mut c_char,
    ) -> isize {
        // SAFETY: While a file is read, sysfs keeps the kobject from being removed.
        let node = unsafe { Self::node(kobj) };
        // SAFETY: Every attribute of the directory is the first field of an `Attribute<T>`.
        let attribute = unsafe { &*attr.cast_const().cast::<Attribute<T>>() };
        // SAFETY: sysfs passes a buffer of one page, which it zeroed.
        let buffer = unsafe { core::slice::from_raw_parts_mut(buffer, kernel::page::PAGE_SIZE) };
        let mut text = Text { buffer, len: 0 };
        from_result(|| {
            (attribute.show)(&node.state, &mut text)?;
            // No overflow: `len` is at most a page.
            Ok(text.len as isize)
        })
    }

    /// # Safety
    ///
    /// Called by sysfs, with a kobject of [`Self::TYPE`], an attribute of its table, and `count`
    /// bytes of text.
    unsafe extern "C" fn store(
        kobj: *mut bindings::kobject,
        attr: *mut bindings::attribute,
        text: *const c_char,
        count: usize,
    ) -> isize {
        // SAFETY: As in `show`.
        let node = unsafe { Self::node(kobj) };
        // SAFETY: As in `show`.
        let attribute = unsafe { &*attr.cast_const().cast::<Attribute<T>>() };
        // SAFETY: sysfs passes `count` bytes, at most a page.
        let text = unsafe { core::slice::from_raw_parts(text, count) };
        from_result(|| {
            check_privilege()?;
            attribute.store.ok_or(EACCES)?(&node.state, text)?;
            // No overflow: `count` is at most a page.
            Ok(count as isize)
        })
    }

    /// # Safety
    ///
    /// Called by the driver core when the last reference to a kobject of [`Self::TYPE`] is gone.
    unsafe extern "C" fn release(kobj: *mut bindings::kobject) {
        // SAFETY: `drop` keeps the node until this has been waited for.
        unsafe { Self::node(kobj) }.released.complete_all();
    }
}

/// Whether the calling process may change what concerns all users' memory.
///
/// The mode of a file is checked when it is opened; who opens it may hand it to anybody, and root
/// may have given up its capabilities.
///
/// # Errors
///
/// `EPERM`: the writer does not have `CAP_SYS_ADMIN` in the initial user namespace.
fn check_privilege() -> Result {
    // SAFETY: Called by a process, of itself.
    if unsafe { bindings::capable(bindings::CAP_SYS_ADMIN as c_int) } {
        Ok(())
    } else {
        Err(EPERM)
    }
}

/// As [`check_privilege`], of who only wants to know more: a refusal is no news to an audit.
pub(crate) fn is_privileged() -> bool {
    let capability = bindings::CAP_SYS_ADMIN as c_int;
    // SAFETY: Called by a process, of itself; the initial user namespace is always there.
    unsafe { bindings::ns_capable_noaudit(&raw mut bindings::init_user_ns, capability) }
}

impl<T: Send + Sync + 'static> Drop for Directory<T> {
    fn drop(&mut self) {
        let kobj = self.node.kobj.get();
        // SAFETY: By the type invariant the kobject is not released; this drops the reference
        // that `kobject_init_and_add` made.
        unsafe {
            bindings::kobject_del(kobj);
            bindings::kobject_put(kobj);
        }
        // With CONFIG_DEBUG_KOBJECT_RELEASE that takes a while.
        self.node.released.wait_for_completion();
    }
}
