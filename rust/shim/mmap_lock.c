// SPDX-License-Identifier: GPL-2.0

/* <linux/mmap_lock.h> */
#include "shim.h"

/* Names that 7.2 does not have. */
#ifndef VM_REFCNT_LIMIT
#define VM_REFCNT_LIMIT VMA_REF_LIMIT
#endif
#ifndef __vma_lockdep_acquire_read
#define __vma_lockdep_acquire_read(vma) \
	rwsem_acquire_read(&(vma)->vmlock_dep_map, 0, 1, _RET_IP_)
#endif

/*
 * vma_start_read() of mm/mmap_lock.c, which is static; the comments there say why each check is
 * needed. Its callers (lock_vma_under_rcu(), lock_next_vma()) look an area that is detached up again
 * and again, until it has left the tree: with mmap(MAP_FIXED), not before the old area's ->close() and
 * the new one's ->mmap() have returned, and in a FUSE file system these wait for a daemon.
 *
 * Called under RCU. True: locked. If false, *other is NULL or an address space to be dropped by
 * mmdrop() once RCU is unlocked.
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
	/* It may be another address space's by now, whose vma_refcount_put() wakes up a writer. */
	*other = vma->vm_mm;
	mmgrab(*other);
	vma_refcount_put(vma);
	return false;
}

bool ksm_v_vma_start_read_locked(struct vm_area_struct *vma)
{
	return vma_start_read_locked(vma);
}
