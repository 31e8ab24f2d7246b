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

// SAFETY: The name points to a string literal, and all other fields are plain values that do not change.
unsafe impl<T> Sync for Attribute<T> {}

impl<T> Attribute<T> {
    /// A file that all users may read.
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
                // SAFETY: The remaining fields, which lockdep adds, are valid as zeroes.
                ..unsafe { core::mem::zeroed() }
            },
            show,
            store: None,
        }
    }

    /// A file that all users may read, and root with `CAP_SYS_ADMIN` may write.
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

    /// A file that no user may read, and root with `CAP_SYS_ADMIN` may write.
    pub(crate) const fn write_only(name: &'static CStr, store: fn(&T, &[u8]) -> Result) -> Self {
        let mut attribute = Self::read_write(name, |_, _| Err(EACCES), store);
        attribute.attr.mode = 0o200;
        attribute
    }
}

/// The text that the reader of a file gets, at most a page.
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

/// The kobject and the state of its files. Pinned, because sysfs points to it.
#[pin_data]
struct Node<T> {
    #[pin]
    kobj: Opaque<bindings::kobject>,
    #[pin]
    released: Completion,
    state: T,
}

/// The contents of a directory.
pub(crate) struct Listing<T: 'static> {
    pub(crate) name: &'static CStr,
    pub(crate) files: &'static [Attribute<T>],
    /// The state of the files.
    pub(crate) state: T,
}

/// A directory in sysfs, and a directory in it.
pub(crate) struct Tree<T: Send + Sync + 'static, U: Send + Sync + 'static> {
    // Fields are dropped in this order: the inner directory first.
    _inner: Directory<U>,
    _outer: Directory<T>,
}

impl<T: Send + Sync + 'static, U: Send + Sync + 'static> Tree<T, U> {
    /// Makes the directory `outer` in `/sys/kernel/mm`, and `inner` in `outer`.
    ///
    /// # Errors
    ///
    /// `EEXIST` if a name is taken; `ENOMEM`.
    pub(crate) fn under_mm(imports: Imports, outer: Listing<T>, inner: Listing<U>) -> Result<Self> {
        // SAFETY: `/sys/kernel/mm` is never removed, so its kobject outlives the directory.
        let outer = unsafe { Directory::new(imports.mm_kobj(), outer)? };
        // SAFETY: The outer directory is dropped after the inner one, so its kobject outlives it.
        let inner = unsafe { Directory::new(outer.node.kobj.get(), inner)? };
        Ok(Tree {
            _inner: inner,
            _outer: outer,
        })
    }
}

/// A directory in sysfs. Dropping it waits for readers and writers, and removes the directory.
///
/// # Invariants
///
/// The kobject of `node` was initialised by `kobject_init_and_add()`, and is not released yet.
struct Directory<T: Send + Sync + 'static> {
    node: Pin<KBox<Node<T>>>,
}

// SAFETY: Any thread may remove a kobject, and `T` is `Send`.
unsafe impl<T: Send + Sync> Send for Directory<T> {}
// SAFETY: A shared reference gives access to `state` only, and `T` is `Sync`.
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
    /// `EEXIST` if the name is taken; `ENOMEM`.
    unsafe fn new(parent: *mut bindings::kobject, listing: Listing<T>) -> Result<Self> {
        let Listing { name, files, state } = listing;
        let node = KBox::pin_init(
            pin_init!(Node {
                // `kobject_init()` requires a zeroed kobject.
                kobj <- pin_init::init_zeroed(),
                released <- Completion::new(),
                state,
            }),
            GFP_KERNEL,
        )?;
        let kobj = node.kobj.get();
        // SAFETY: The kobject is zeroed and pinned, and its type is static. "%s" takes the name, a C
        // string. The caller promises that the parent outlives the directory.
        let added = to_result(unsafe {
            bindings::kobject_init_and_add(
                kobj,
                &Self::TYPE,
                parent,
                c"%s".as_char_ptr(),
                name.as_char_ptr(),
            )
        });
        // INVARIANT: The call above has initialised the kobject, even if it failed to add it. `drop`
        // handles both cases.
        let directory = Directory { node };
        added?;
        for attribute in files {
            // SAFETY: The kobject was added, and the attribute is static.
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

    /// The node that contains `kobj`.
    ///
    /// # Safety
    ///
    /// `kobj` must be the kobject of a `Node<T>` that lives for `'a`.
    unsafe fn node<'a>(kobj: *mut bindings::kobject) -> &'a Node<T> {
        // SAFETY: The caller promises that `kobj` is the kobject of a `Node<T>` that lives for `'a`.
        // `Opaque` is transparent, so both have the same address.
        unsafe { &*kobj.byte_sub(offset_of!(Node<T>, kobj)).cast() }
    }

    /// # Safety
    ///
    /// Must be called by sysfs, with a kobject of [`Self::TYPE`], an attribute of its table, and a buffer
    /// of a page.
    unsafe extern "C" fn show(
        kobj: *mut bindings::kobject,
        attr: *mut bindings::attribute,
        buffer: *mut c_char,
    ) -> isize {
        // SAFETY: `kobj` is of `TYPE`, so it is in a `Node<T>`. While a file is read, sysfs keeps the
        // kobject from being removed.
        let node = unsafe { Self::node(kobj) };
        // SAFETY: Every attribute of the directory is the first field of a static `Attribute<T>`.
        let attribute = unsafe { &*attr.cast_const().cast::<Attribute<T>>() };
        // SAFETY: sysfs passes a buffer of one page, which it has zeroed.
        let buffer = unsafe { core::slice::from_raw_parts_mut(buffer, kernel::page::PAGE_SIZE) };
        let mut text = Text { buffer, len: 0 };
        from_result(|| {
            (attribute.show)(&node.state, &mut text)?;
            // The cast does not overflow, because `len` is at most a page.
            Ok(text.len as isize)
        })
    }

    /// # Safety
    ///
    /// Must be called by sysfs, with a kobject of [`Self::TYPE`], an attribute of its table, and `count`
    /// bytes of text.
    unsafe extern "C" fn store(
        kobj: *mut bindings::kobject,
        attr: *mut bindings::attribute,
        text: *const c_char,
        count: usize,
    ) -> isize {
        // SAFETY: `kobj` is of `TYPE`, so it is in a `Node<T>`. While a file is written, sysfs keeps the
        // kobject from being removed.
        let node = unsafe { Self::node(kobj) };
        // SAFETY: Every attribute of the directory is the first field of a static `Attribute<T>`.
        let attribute = unsafe { &*attr.cast_const().cast::<Attribute<T>>() };
        // SAFETY: sysfs passes `count` initialised bytes, at most a page, and does not change them during
        // the call.
        let text = unsafe { core::slice::from_raw_parts(text, count) };
        from_result(|| {
            check_privilege()?;
            attribute.store.ok_or(EACCES)?(&node.state, text)?;
            // The cast does not overflow, because `count` is at most a page.
            Ok(count as isize)
        })
    }

    /// # Safety
    ///
    /// Must be called by the driver core, when the last reference to a kobject of [`Self::TYPE`] is gone.
    unsafe extern "C" fn release(kobj: *mut bindings::kobject) {
        // SAFETY: `kobj` is of `TYPE`, so it is in a `Node<T>`. `drop` frees the node only after it has
        // waited for this.
        unsafe { Self::node(kobj) }.released.complete_all();
    }
}

/// Whether the calling process may change settings that concern the memory of all users.
///
/// The mode of a file is checked only when the file is opened. Its opener may pass it to any process, and
/// root may have given up its capabilities.
///
/// # Errors
///
/// `EPERM`: the writer does not have `CAP_SYS_ADMIN` in the initial user namespace.
fn check_privilege() -> Result {
    // SAFETY: A process calls this about itself, which is always allowed.
    if unsafe { bindings::capable(bindings::CAP_SYS_ADMIN as c_int) } {
        Ok(())
    } else {
        Err(EPERM)
    }
}

/// As [`check_privilege`], for a reader who may get more details: a refusal is not reported to the audit
/// log.
pub(crate) fn is_privileged() -> bool {
    let capability = bindings::CAP_SYS_ADMIN as c_int;
    // SAFETY: A process calls this about itself. The initial user namespace always exists.
    unsafe { bindings::ns_capable_noaudit(&raw mut bindings::init_user_ns, capability) }
}

impl<T: Send + Sync + 'static> Drop for Directory<T> {
    fn drop(&mut self) {
        let kobj = self.node.kobj.get();
        // SAFETY: By the type invariant the kobject was initialised and is not released. This drops the
        // reference that `kobject_init_and_add()` made.
        unsafe {
            bindings::kobject_del(kobj);
            bindings::kobject_put(kobj);
        }
        // With CONFIG_DEBUG_KOBJECT_RELEASE the release is delayed.
        self.node.released.wait_for_completion();
    }
}
