// SPDX-License-Identifier: GPL-2.0

//! Whose memory an address space is, and whether others of that user may learn of it.
//!
//! The rule is `__ptrace_may_access()`'s: who may attach to a process may read all of its memory
//! anyway. `Documentation/security.md` has it as a table.
//!
//! Registering is no excuse from it. `PR_SET_MEMORY_MERGE` needs no privilege and survives exec,
//! so whoever starts a set-user-ID program can register that program's memory.
//!
//! C headers: [`include/linux/cred.h`](srctree/include/linux/cred.h),
//! [`include/linux/user_namespace.h`](srctree/include/linux/user_namespace.h)

use crate::mm::process::identity;
use crate::mm::process::Owner;
use crate::shim;
use core::marker::PhantomData;
use core::ptr::NonNull;
use engine::Domain;
use kernel::bindings;
use kernel::mm::Mm;
use kernel::sync::rcu;

/// The superuser of the initial user namespace.
const ROOT: u32 = 0;

/// The objective credentials of a task: those by which others are kept from it.
///
/// # Invariants
///
/// `cred` is a task's, found under the RCU read lock that lives for `'a`.
#[derive(Clone, Copy)]
pub(super) struct Credentials<'a> {
    cred: NonNull<bindings::cred>,
    _rcu: PhantomData<&'a rcu::Guard>,
}

impl<'a> Credentials<'a> {
    /// Takes over what `__task_cred()` returned.
    ///
    /// # Safety
    ///
    /// `cred` was read from a task under the RCU read lock, which is held for `'a`.
    pub(super) unsafe fn from_raw(cred: NonNull<bindings::cred>) -> Self {
        // INVARIANT: By this function's requirements.
        Credentials {
            cred,
            _rcu: PhantomData,
        }
    }

    fn get(&self) -> &'a bindings::cred {
        // SAFETY: By the type invariant: credentials of a task do not change, and are freed by RCU.
        // Their counts, which do change, are not read.
        unsafe { self.cred.as_ref() }
    }

    /// Whether some of the ids are another user's or another group's: the task may act as several.
    fn are_mixed(&self) -> bool {
        let cred = self.get();
        let users = [cred.euid, cred.suid, cred.fsuid].map(|id| id.val);
        let groups = [cred.egid, cred.sgid, cred.fsgid].map(|id| id.val);
        users != [cred.uid.val; 3] || groups != [cred.gid.val; 3]
    }

    /// The real user id and the real group id, as the kernel's own numbers.
    fn user_and_group(&self) -> u64 {
        let cred = self.get();
        (u64::from(cred.gid.val) << u32::BITS) | u64::from(cred.uid.val)
    }

    /// Whether the task has capabilities that other tasks of its user and group may lack: not where
    /// the user is root of its user namespace, or has created that.
    fn exceed_the_users(&self) -> bool {
        let cred = self.get();
        let uid = cred.uid.val;
        if cred.cap_permitted.val == 0 || uid == ROOT {
            return false;
        }
        // SAFETY: Credentials hold a reference to their user namespace.
        let (root, owner) = unsafe {
            (
                shim::ksm_v_user_ns_root(cred.user_ns),
                shim::ksm_v_user_ns_owner(cred.user_ns),
            )
        };
        uid != root && uid != owner
    }

    /// What divides users: user, group, and the capabilities that exceed theirs.
    ///
    /// The address of the namespace keeps users from making one with a domain of their choice. It
    /// may be reused, but not before every task of the old namespace is gone.
    pub(super) fn domain(&self) -> Domain {
        let user_and_group = self.user_and_group();
        Domain(if self.exceed_the_users() {
            let cred = self.get();
            let namespace = cred.user_ns as u64;
            identity([user_and_group, cred.cap_permitted.val, namespace])
        } else {
            user_and_group
        })
    }
}

/// Whether memory of `owner` may be merged, as far as its credentials and its dumpability say.
pub(super) fn admit(owner: &Owner<'_>, is_registered: bool) -> bool {
    let credentials = owner.credentials();
    if credentials.are_mixed() {
        return false;
    }
    // A task that gives up privileges becomes undumpable before its credentials change, in
    // commit_creds(). Pairs with the barrier there, as the one of __ptrace_may_access() does.
    // SAFETY: May be called anywhere.
    unsafe { shim::ksm_v_smp_rmb() };
    if owner.is_dumpable() {
        return true;
    }
    is_registered && !credentials.exceed_the_users() && is_registered_by_its_own(owner.mm())
}

/// Whether the program that `mm` executes can be taken to have agreed to its registration, or whoever
/// started it to have had the right to all of its memory: not where executing it gave privileges, and
/// not where the program's file is kept from some.
fn is_registered_by_its_own(mm: &Mm) -> bool {
    !gained_privileges_by_exec(mm) && is_program_readable_by_all(mm)
}

/// Whether the last exec, of this process or of one that forked it, was a privileged one
/// (`bprm->secureexec`). Dropping all privileges later does not change that.
///
/// True also where nothing tells: during an exec, and of programs for 32 bits, whose vector is laid
/// out differently. Only the process itself can change the vector (`PR_SET_MM`).
fn gained_privileges_by_exec(mm: &Mm) -> bool {
    // SAFETY: The mm is referenced.
    let vector = unsafe { shim::ksm_v_mm_saved_auxv(mm.as_raw()) };
    let word = |index| {
        // SAFETY: The index is below the length. `PR_SET_MM` may write meanwhile: as for
        // /proc/PID/auxv, any mixture of old and new words will do.
        unsafe { vector.add(index).read_volatile() }
    };
    let mut entries = (0..shim::KSM_V_AT_VECTOR_SIZE / 2).map(|entry| {
        let index = 2 * entry;
        (word(index), word(index + 1))
    });
    entries.find(|&(kind, _)| kind == shim::KSM_V_AT_SECURE) != Some((shim::KSM_V_AT_SECURE, 0))
}

/// Whether everybody may read the file of the program. A process whose program its user can't read is
/// not dumpable, and its memory holds what is not to be read.
fn is_program_readable_by_all(mm: &Mm) -> bool {
    // SAFETY: The mm is referenced.
    let Some(file) = NonNull::new(unsafe { shim::get_mm_exe_file(mm.as_raw()) }) else {
        return false;
    };
    // SAFETY: The file was just referenced; the reference is given up here.
    let mode = unsafe {
        let mode = shim::ksm_v_file_mode(file.as_ptr());
        bindings::fput(file.as_ptr());
        mode
    };
    u32::from(mode) & bindings::S_IROTH != 0
}
