// SPDX-License-Identifier: GPL-2.0

//! Whose memory may be merged, and with whose.
//!
//! Both questions are asked twice: when an area is scanned, and of every single mapping when a
//! page is replaced, since fork may have left a page in processes of several domains.

use crate::mm::credentials;
use crate::mm::movers;
use crate::mm::page::node_of;
use crate::mm::process::Owner;
use crate::mm::vma::StableVma;
use crate::shim;
use engine::Domain;
use engine::Frame;
use kernel::mm::virt::vm_flags_t;

/// Which areas are scanned.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All that have not been left alone by their owner.
    #[default]
    All,
    /// Only those registered with `madvise(MADV_MERGEABLE)` or `prctl(PR_SET_MEMORY_MERGE)`.
    Registered,
}

/// What divides processes into domains; pages of different domains are never merged.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Division {
    /// The user and the group that run the process.
    #[default]
    User,
    /// Each process is a domain.
    Process,
    /// The process's cgroup (in the unified hierarchy).
    Cgroup,
    /// Everything is one domain.
    Global,
}

/// Areas with one of these hold secrets, or must keep their pages, or are not memory at all. What is
/// not copied by `fork()` stays exclusive: who asked for that (`MADV_DONTFORK`) pins the pages, or
/// moves them by userfaultfd.
const PRIVATE_FLAGS: vm_flags_t = shim::KSM_V_VM_LOCKED
    | shim::KSM_V_VM_WIPEONFORK
    | shim::KSM_V_VM_DONTDUMP
    | shim::KSM_V_VM_DONTCOPY
    | shim::KSM_V_VM_SHADOW_STACK;

/// Areas with one of these can't be merged, whatever their owner says: as `ksm_compatible()`.
const IMPOSSIBLE_FLAGS: vm_flags_t =
    shim::KSM_V_VM_SHARED | shim::KSM_V_VM_HUGETLB | shim::KSM_V_VM_DROPPABLE;

/// Where both are set, the area is the stack of a program that is being executed, which
/// `shift_arg_pages()` moves without telling the rmap: migration spares anonymous pages there, and would not
/// spare merged ones.
const TEMPORARY_STACK: vm_flags_t = shim::KSM_V_VM_STACK_INCOMPLETE_SETUP;

/// The rules that are in force.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Which areas are scanned.
    pub(crate) scope: Scope,
    /// Who may share with whom.
    pub(crate) division: Division,
    /// Whether pages of different NUMA nodes may be merged.
    pub(crate) merge_across_nodes: bool,
}

impl Policy {
    /// The domain of the memory of `owner`.
    pub(crate) fn domain(&self, owner: &Owner<'_>) -> Domain {
        Domain(match self.division {
            Division::User => return owner.credentials().domain(),
            Division::Process => owner.address_space_id(),
            Division::Cgroup => owner.cgroup_id(),
            Division::Global => 0,
        })
    }

    /// The domain of pages on the node of `frame`, of an owner in `domain`: what their keys are for.
    #[inline]
    pub(crate) fn domain_of_page(&self, domain: Domain, frame: Frame) -> Domain {
        if self.merge_across_nodes {
            domain
        } else {
            domain_on_node_of(domain, frame)
        }
    }

    /// On which node the shared page is to be that replaces the page on `frame`; `None`: on any.
    pub(crate) fn node_of_page(&self, frame: Frame) -> Option<i32> {
        (!self.merge_across_nodes).then(|| node_of(frame))?
    }

    /// Whether the page on `frame` may be merged into the shared page on `shared`, as far as nodes go: the
    /// kernel may have moved that to another one.
    pub(crate) fn allows_nodes(&self, frame: Frame, shared: Frame) -> bool {
        self.merge_across_nodes || node_of(frame) == node_of(shared)
    }

    /// Whether pages of `vma`, which belongs to `owner`, may be merged at all.
    pub(crate) fn admits(&self, vma: &StableVma<'_>, owner: &Owner<'_>) -> bool {
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
        let is_registered = flags & shim::KSM_V_VM_MERGEABLE != 0;
        if !is_registered
            && (self.scope != Scope::All
                || flags & PRIVATE_FLAGS != 0
                || vma.has_userfaultfd()
                || movers::includes(vma.mm()))
        {
            return false;
        }
        credentials::admit(owner, is_registered)
    }
}

/// Not in line: few ask for it, of many pages.
#[cold]
fn domain_on_node_of(domain: Domain, frame: Frame) -> Domain {
    domain.on_node(node_of(frame).unwrap_or(0).unsigned_abs())
}
