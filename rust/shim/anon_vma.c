// SPDX-License-Identifier: GPL-2.0

/* <linux/rmap.h>: finds the VMAs that may map an anonymous page, by its anon_vma and index. */
#include <linux/pagemap.h>
#include "shim.h"

struct anon_vma *ksm_v_vma_anon_vma(const struct vm_area_struct *vma)
{
	return READ_ONCE(vma->anon_vma);
}

struct anon_vma *ksm_v_vma_anon_vma_root(const struct vm_area_struct *vma)
{
	const struct anon_vma *anon_vma = READ_ONCE(vma->anon_vma);

	return anon_vma ? anon_vma->root : NULL;
}

void ksm_v_get_anon_vma(struct anon_vma *anon_vma)
{
	/* The body of get_anon_vma(), which modules can't call. */
	atomic_inc(&anon_vma->refcount);
}

bool ksm_v_anon_vma_trylock_read(struct anon_vma *anon_vma)
{
	return down_read_trylock(&anon_vma->root->rwsem);
}

void ksm_v_anon_vma_lock_read(struct anon_vma *anon_vma)
{
	down_read(&anon_vma->root->rwsem);
}

void ksm_v_anon_vma_unlock_read(struct anon_vma *anon_vma)
{
	up_read(&anon_vma->root->rwsem);
}

/*
 * Whether no VMA belongs to @anon_vma. None will then: it would be linked by a VMA that belongs to it. Looks
 * under the lock, since a VMA that is being changed leaves the tree for a moment (vma_prepare()).
 */
bool ksm_v_anon_vma_is_unused(struct anon_vma *anon_vma)
{
	bool is_unused;

	if (!ksm_v_anon_vma_trylock_read(anon_vma))
		return false;
	is_unused = RB_EMPTY_ROOT(&anon_vma->rb_root.rb_root);
	ksm_v_anon_vma_unlock_read(anon_vma);
	return is_unused;
}

struct vm_area_struct *ksm_v_anon_vma_chain_vma(const struct anon_vma_chain *chain)
{
	return chain->vma;
}

/* Before 7.3, anonymous memory used the index of files, and the tree's functions had other names. */
#ifdef anon_rmap_tree_foreach
#define first(anon_vma, index) anon_rmap_tree_iter_first(anon_vma, index, index)
#define next(chain, index) anon_rmap_tree_iter_next(chain, index, index)
#define anon_index(vma, addr) linear_anon_page_index(vma, addr)
#define first_index(vma) vma_start_anon_pgoff(vma)
#else
#define first(anon_vma, index) anon_vma_interval_tree_iter_first(&(anon_vma)->rb_root, index, index)
#define next(chain, index) anon_vma_interval_tree_iter_next(chain, index, index)
#define anon_index(vma, addr) linear_page_index(vma, addr)
#define first_index(vma) ((vma)->vm_pgoff)
#endif

pgoff_t ksm_v_anon_index(const struct vm_area_struct *vma, unsigned long addr)
{
	return anon_index(vma, addr);
}

unsigned long ksm_v_anon_address(const struct vm_area_struct *vma, pgoff_t index)
{
	return vma->vm_start + ((index - first_index(vma)) << PAGE_SHIFT);
}

/* Functions for the redirects only; they call functions that are imported for the redirects. */
#ifdef CONFIG_DYNAMIC_FTRACE_WITH_ARGS
void ksm_v_put_anon_vma(struct anon_vma *anon_vma)
{
	if (atomic_dec_and_test(&anon_vma->refcount))
		__put_anon_vma(anon_vma);
}

struct anon_vma_chain *ksm_v_anon_vma_first(struct anon_vma *anon_vma, pgoff_t index)
{
	return first(anon_vma, index);
}

struct anon_vma_chain *ksm_v_anon_vma_next(struct anon_vma_chain *chain, pgoff_t index)
{
	return next(chain, index);
}
#else
void ksm_v_put_anon_vma(struct anon_vma *anon_vma)
{
}

struct anon_vma_chain *ksm_v_anon_vma_first(struct anon_vma *anon_vma, pgoff_t index)
{
	return NULL;
}

struct anon_vma_chain *ksm_v_anon_vma_next(struct anon_vma_chain *chain, pgoff_t index)
{
	return NULL;
}
#endif
