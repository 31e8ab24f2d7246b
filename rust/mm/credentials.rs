// SPDX-License-Identifier: GPL-2.0

//! Decides by the owner's credentials whether memory may be merged, and divides users into domains.
//!
//! The rule is the one of `__ptrace_may_access()`: a user who may attach to a process may read all of its
//! memory anyway. `Documentation/security.md` has the rule as a table.
//!
//! Registering for merging is no exception. `PR_SET_MEMORY_MERGE` needs no privilege and survives exec, so
//! any user who starts a set-user-ID program can register that program's memory.
//!
//! C headers: [`include/linux/cred.h`](srctree/include/linux/cred.h),
//! [`include/linux/user_namespace.h`](srctree/include/linux/user_namespace.h)

use crate::mm::family::Family;
use crate::mm::policy::Undumpable;
use crate::mm::process::is_registered;
use crate::mm::process::Owner;
use crate::mm::task::Task;
use crate::shim;
use core::marker::PhantomData;
use core::ptr::NonNull;
use engine::hash::mix_all;
use engine::Domain;
use kernel::bindings;
use kernel::mm::Mm;
use kernel::sync::rcu;

/// The superuser of the initial user namespace.
const ROOT: u32 = 0;

/// The objective credentials of a task, which decide what other tasks may do to it.
///
/// # Invariants
///
/// `cred` belongs to a task, and was found under the RCU read lock, which is held for `'a`.
#[derive(Clone, Copy)]
pub(super) struct Credentials<'a> {
    cred: NonNull<bindings::cred>,
    _rcu: PhantomData<&'a rcu::Guard>,
}

impl<'a> Credentials<'a> {
    /// The credentials of `task`.
    pub(super) fn of(task: Task<'a>) -> Self {
        // SAFETY: By the invariant of `Task` the RCU read lock keeps the task from being freed. Every task has
        // credentials.
        let cred = unsafe { shim::ksm_v_task_cred(task.as_ptr()) };
        Credentials {
            // INVARIANT: The credentials were read from a task under the RCU read lock, which is held for `'a`
            // by the invariant of `Task`.
            // SAFETY: The credentials of a task are never null.
            cred: unsafe { NonNull::new_unchecked(cred.cast_mut()) },
            _rcu: PhantomData,
        }
    }

    /// The credentials themselves.
    fn get(&self) -> &'a bindings::cred {
        // SAFETY: By the type invariant the RCU read lock keeps the credentials from being freed. A task's
        // credentials do not change, except for their reference counts, which are not read.
        unsafe { self.cred.as_ref() }
    }

    /// Whether the effective, saved or file system ids differ from the real ids, so that the task may act
    /// as several users or groups.
    fn are_mixed(&self) -> bool {
        let cred = self.get();
        let users = [cred.euid, cred.suid, cred.fsuid].map(|id| id.val);
        let groups = [cred.egid, cred.sgid, cred.fsgid].map(|id| id.val);
        users != [cred.uid.val; 3] || groups != [cred.gid.val; 3]
    }

    /// The real user id and the real group id, as the kernel's internal numbers.
    fn user_and_group(&self) -> u64 {
        let cred = self.get();
        (u64::from(cred.gid.val) << u32::BITS) | u64::from(cred.uid.val)
    }

    /// Whether the task has capabilities that other tasks of its user and group may lack. False if the user
    /// is root in its user namespace, or has created that namespace.
    fn exceed_the_users(&self) -> bool {
        let cred = self.get();
        let uid = cred.uid.val;
        if cred.cap_permitted.val == 0 || uid == ROOT {
            return false;
        }
        // SAFETY: Credentials hold a reference to their user namespace, so it is valid.
        let (root, owner) = unsafe {
            (
                shim::ksm_v_user_ns_root(cred.user_ns),
                shim::ksm_v_user_ns_owner(cred.user_ns),
            )
        };
        uid != root && uid != owner
    }

    /// The domain of the user: user, group, and capabilities that exceed those of the user.
    pub(super) fn domain(&self) -> Domain {
        Domain(if self.exceed_the_users() {
            self.identity()
        } else {
            self.user_and_group()
        })
    }

    /// Identifies user, group and capabilities.
    ///
    /// The address of the user namespace is included, so that no user can create a namespace with a chosen
    /// identity. The address may be reused, but only after all tasks of the old namespace are gone.
    pub(super) fn identity(&self) -> u64 {
        let cred = self.get();
        let namespace = cred.user_ns as u64;
        mix_all([self.user_and_group(), cred.cap_permitted.val, namespace])
    }

    /// Whether a task with these ids, which are not mixed, has changed them since it was forked by a task with
    /// the ids of `parent`, so that it became undumpable: `commit_creds()` compares effective ids.
    pub(super) fn have_changed_from(&self, parent: &Self) -> bool {
        let (own, others) = (self.get(), parent.get());
        own.euid.val != others.euid.val || own.egid.val != others.egid.val
    }
}

/// Which memory of a process may be merged, by its credentials and its dumpability at one moment.
#[derive(Clone, Copy)]
pub(super) enum Standing {
    /// All of it, in this domain of its user.
    Open(Domain),
    /// Registered memory, in this domain of its user.
    Registered(Domain),
    /// All of it, with that of its family.
    Sibling(Family),
    /// None.
    Closed,
}

impl Standing {
    /// The standing of `owner`.
    pub(super) fn of(owner: &Owner<'_>, undumpable: Undumpable) -> Self {
        let credentials = Credentials::of(owner.task());
        if credentials.are_mixed() {
            return Standing::Closed;
        }
        // A task that gives up privileges becomes undumpable before its credentials change, in
        // commit_creds(). This barrier pairs with the one there, as the barrier in __ptrace_may_access()
        // does.
        // SAFETY: This is only a barrier, which may be issued at any time.
        unsafe { shim::ksm_v_smp_rmb() };
        if owner.task().is_dumpable() {
            return Standing::Open(credentials.domain());
        }
        Self::of_undumpable(owner, &credentials, undumpable)
    }

    /// The standing of `owner`, which is not dumpable.
    #[cold]
    fn of_undumpable(
        owner: &Owner<'_>,
        credentials: &Credentials<'_>,
        undumpable: Undumpable,
    ) -> Self {
        if is_registered(owner.mm()) {
            let is_own = !credentials.exceed_the_users() && is_started_by_its_own(owner.mm());
            return if is_own {
                Standing::Registered(credentials.domain())
            } else {
                Standing::Closed
            };
        }
        if undumpable == Undumpable::Leave || !is_started_by_its_own(owner.mm()) {
            return Standing::Closed;
        }
        Family::of(owner, credentials).map_or(Standing::Closed, Standing::Sibling)
    }
}

/// Why no memory of `owner` may be merged, by its credentials and its dumpability; `None` if some may. In words for
/// the kernel log: they may change at any time, and nothing depends on them.
pub(super) fn objection(owner: &Owner<'_>, undumpable: Undumpable) -> Option<&'static str> {
    if Credentials::of(owner.task()).are_mixed() {
        return Some("its user or group ids are not all the same");
    }
    let is_closed = matches!(Standing::of(owner, undumpable), Standing::Closed);
    is_closed.then_some("it is not dumpable")
}

/// Whether the program that `mm` executes was started by a user with a right to all of its memory. False if the
/// exec gave privileges, or if some users may not read the program's file.
fn is_started_by_its_own(mm: &Mm) -> bool {
    !gained_privileges_by_exec(mm) && is_program_readable_by_all(mm)
}

/// Whether the last exec, of this process or of a process that forked it, was a privileged one
/// (`bprm->secureexec`). Dropping all privileges later does not change that.
///
/// Also true if that can't be told: during an exec, and for 32-bit programs, whose auxiliary vector has
/// another layout. Only the process itself can change the vector (`PR_SET_MM`).
fn gained_privileges_by_exec(mm: &Mm) -> bool {
    // SAFETY: The reference to an `Mm` shows that the mm is referenced, and the vector is part of it.
    let vector = unsafe { shim::ksm_v_mm_saved_auxv(mm.as_raw()) };
    let word = |index| {
        // SAFETY: The index is less than the length of the vector. `PR_SET_MM` may write at the same time;
        // any mixture of old and new words is acceptable, as for /proc/PID/auxv.
        unsafe { vector.add(index).read_volatile() }
    };
    let mut entries = (0..shim::KSM_V_AT_VECTOR_SIZE / 2).map(|entry| {
        let index = 2 * entry;
        (word(index), word(index + 1))
    });
    entries.find(|&(kind, _)| kind == shim::KSM_V_AT_SECURE) != Some((shim::KSM_V_AT_SECURE, 0))
}

/// Whether all users may read the program's file. A process whose user can't read its program is not
/// dumpable, because its memory contains the program.
fn is_program_readable_by_all(mm: &Mm) -> bool {
    // SAFETY: The reference to an `Mm` shows that the mm is referenced.
    let Some(file) = NonNull::new(unsafe { shim::get_mm_exe_file(mm.as_raw()) }) else {
        return false;
    };
    // SAFETY: `get_mm_exe_file()` returned a reference to the file, which is given up here after the last
    // use.
    let mode = unsafe {
        let mode = shim::ksm_v_file_mode(file.as_ptr());
        bindings::fput(file.as_ptr());
        mode
    };
    u32::from(mode) & bindings::S_IROTH != 0
}
