// SPDX-License-Identifier: GPL-2.0

//! Whose memory may be merged, and with whose memory.
//!
//! Both are checked twice: when a VMA is scanned, and for every single mapping when a page is replaced, because
//! after a fork a page may be mapped in processes of several domains.

use crate::mm::credentials::objection;
use crate::mm::credentials::Standing;
use crate::mm::movers;
use crate::mm::page::node_of;
use crate::mm::process::is_registered;
use crate::mm::process::Owner;
use crate::mm::vma::StableVma;
use crate::shim;
use engine::Domain;
use engine::Frame;
use kernel::mm::virt::vm_flags_t;
use kernel::mm::Mm;
use kernel::sync::rcu;

/// Which VMAs are scanned.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All whose owners did not ask to leave them alone.
    #[default]
    All,
    /// Only those registered with `madvise(MADV_MERGEABLE)` or `prctl(PR_SET_MEMORY_MERGE)`.
    Registered,
}

/// What divides processes into domains; pages of different domains are never merged.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Division {
    /// Processes of one user and group are a domain.
    #[default]
    User,
    /// Each process is a domain.
    Process,
    /// Processes of one cgroup (in the unified hierarchy) are a domain.
    Cgroup,
    /// All processes are one domain.
    Global,
}

/// What is done with processes that are not dumpable, and have registered nothing.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Undumpable {
    /// The workers of one server that changed their ids share pages with each other: [`crate::mm::family`].
    #[default]
    Siblings,
    /// They are left alone.
    Leave,
}

/// VMAs with one of these flags hold secrets, must keep their pages, or are no ordinary memory. A process that
/// excludes memory from `fork()` (`MADV_DONTFORK`) wants exclusive pages: it pins them, or moves them by userfaultfd.
///
/// A userfaultfd may watch pages that are there. If it waits for missing pages only (the restore of a snapshot), its
/// VMAs are not private: a merge leaves no page missing, and what resolves missing pages (`UFFDIO_COPY`,
/// `UFFDIO_ZEROPAGE`) fails for merged pages as for any others.
const PRIVATE_FLAGS: vm_flags_t = shim::KSM_V_VM_LOCKED
    | shim::KSM_V_VM_WIPEONFORK
    | shim::KSM_V_VM_DONTDUMP
    | shim::KSM_V_VM_DONTCOPY
    | shim::KSM_V_VM_SHADOW_STACK
    | shim::KSM_V_VM_UFFD_PRESENT;

/// VMAs with one of these flags can't be merged, even if they are registered: as `ksm_compatible()` in `mm/ksm.c`
/// says.
const IMPOSSIBLE_FLAGS: vm_flags_t =
    shim::KSM_V_VM_SHARED | shim::KSM_V_VM_HUGETLB | shim::KSM_V_VM_DROPPABLE;

/// If all of these flags are set, the VMA is the stack of a program that `exec` is still setting up.
/// `shift_arg_pages()` moves it without the locks of the rmap. Migration leaves anonymous pages there alone, but not
/// merged pages.
const TEMPORARY_STACK: vm_flags_t = shim::KSM_V_VM_STACK_INCOMPLETE_SETUP;

/// What may be merged of the memory of a process, by its credentials and its dumpability at one moment.
#[derive(Clone, Copy)]
pub(crate) struct Grant {
    /// The domain of all its memory.
    pub(crate) domain: Domain,
    /// Whether only registered memory may be merged.
    only_registered: bool,
}

/// The rules in force.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Which VMAs are scanned.
    pub(crate) scope: Scope,
    /// Which processes may share pages with each other.
    pub(crate) division: Division,
    /// Whether the workers of a server may share pages with each other.
    pub(crate) undumpable: Undumpable,
    /// Whether pages of different NUMA nodes may be merged.
    pub(crate) merge_across_nodes: bool,
}

impl Policy {
    /// What may be merged of the memory of `owner`; `None` if nothing. A family is a domain of its own, which may
    /// be divided further, but is never joined with others.
    pub(crate) fn grant(&self, owner: &Owner<'_>) -> Option<Grant> {
        let (user, family, only_registered) = match Standing::of(owner, self.undumpable) {
            Standing::Open(user) => (user, None, false),
            Standing::Registered(user) => (user, None, true),
            Standing::Sibling(family) => (Domain(0), Some(family), false),
            Standing::Closed => return None,
        };
        let whole = match self.division {
            Division::User => user,
            Division::Process => Domain(owner.address_space_id()),
            Division::Cgroup => Domain(owner.cgroup_id()),
            Division::Global => Domain(0),
        };
        Some(Grant {
            domain: family.map_or(whole, |family| family.part_of(whole)),
            only_registered,
        })
    }

    /// The domain for which the key of the page on `frame` is made, if its owner is in `domain`: without
    /// `merge_across_nodes`, each node has domains of its own.
    #[inline]
    pub(crate) fn domain_of_page(&self, domain: Domain, frame: Frame) -> Domain {
        if self.merge_across_nodes {
            domain
        } else {
            domain_on_node_of(domain, frame)
        }
    }

    /// The node for the shared page that replaces the page on `frame`; `None`: any node.
    pub(crate) fn node_of_page(&self, frame: Frame) -> Option<i32> {
        (!self.merge_across_nodes).then(|| node_of(frame))?
    }

    /// Whether the nodes of a page on `frame` and of a shared page on `shared` allow to merge them. The kernel may
    /// have moved the shared page to another node.
    pub(crate) fn allows_nodes(&self, frame: Frame, shared: Frame) -> bool {
        self.merge_across_nodes || node_of(frame) == node_of(shared)
    }

    /// Whether pages of `vma` may be merged, if its owner has this grant. Like `vma_ksm_compatible()` in
    /// `mm/ksm.c`, and more.
    pub(crate) fn admits(&self, vma: &StableVma<'_>, grant: Grant) -> bool {
        let flags = vma.flags();
        if flags & TEMPORARY_STACK == TEMPORARY_STACK {
            return false;
        }
        if flags & IMPOSSIBLE_FLAGS != 0 || vma.is_special() || !vma.has_anon_vma() {
            return false;
        }
        if movers::is_device_in(vma.mm()) {
            return false;
        }
        if flags & shim::KSM_V_VM_MERGEABLE != 0 {
            return true;
        }
        !grant.only_registered
            && self.scope == Scope::All
            && flags & PRIVATE_FLAGS == 0
            && !movers::includes(vma.mm())
    }

    /// Why no memory of `mm` was admitted, in words for the kernel log.
    pub(crate) fn objection(&self, mm: &Mm) -> &'static str {
        let rcu = rcu::read_lock();
        let Some(owner) = Owner::of(mm, &rcu) else {
            return "its last owner is exiting";
        };
        if let Some(objection) = objection(&owner, self.undumpable) {
            objection
        } else if self.scope == Scope::Registered && !is_registered(mm) {
            "it has registered no memory, and scope is registered"
        } else {
            "it has no memory there, or only such as is left alone (see scope)"
        }
    }
}

/// The domain of a page, for `merge_across_nodes` 0. Not inlined: rarely used, in a hot path.
#[cold]
fn domain_on_node_of(domain: Domain, frame: Frame) -> Domain {
    domain.on_node(node_of(frame).unwrap_or(0).unsigned_abs())
}
