// SPDX-License-Identifier: GPL-2.0

/* <linux/mmap_lock.h> */
#include "shim.h"

/* Names that 7.2 does not define. */
#ifndef VM_REFCNT_LIMIT
#define VM_REFCNT_LIMIT VMA_REF_LIMIT
#endif
#ifndef __vma_lockdep_acquire_read
#define __vma_lockdep_acquire_read(vma) \
	rwsem_acquire_read(&(vma)->vmlock_dep_map, 0, 1, _RET_IP_)
#endif

/*
 * vma_start_read() of mm/mmap_lock.c, which is static; the comments there say why each check is
 * needed. Its callers can't be used: lock_vma_under_rcu() and lock_next_vma() look up a detached VMA
 * again and again, until it has left the tree. With mmap(MAP_FIXED) that is not before the old VMA's
 * ->close() and the new VMA's ->mmap() have returned, and in a FUSE file system these wait for a daemon.
 *
 * Must be called under RCU. Returns true if the VMA was locked. If false, *other is NULL, or an address
 * space that the caller must drop by mmdrop() after it has unlocked RCU.
 */
bool ksm_v_vma_start_read(struct mm_struct *mm, struct vm_area_struct *vma,
			  struct mm_struct **other)
{
	int old;

	*other = NULL;
	if (READ_ONCE(vma->vm_lock_seq) == READ_ONCE(mm->mm_lock_seq.sequence))
		return false;
	if (!__refcount_inc_not_zero_limited_acquire(&vma->vm_refcnt, &old, VM_REFCNT_LIMIT))
		return false;
	__vma_lockdep_acquire_read(vma);
	if (vma->vm_mm == mm && vma->vm_lock_seq != raw_read_seqcount(&mm->mm_lock_seq))
		return true;
	/* The VMA may belong to another address space now, and vma_refcount_put() wakes its writer. */
	*other = vma->vm_mm;
	mmgrab(*other);
	vma_refcount_put(vma);
	return false;
}

bool ksm_v_vma_start_read_locked(struct vm_area_struct *vma)
{
	return vma_start_read_locked(vma);
}
