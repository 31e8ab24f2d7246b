// SPDX-License-Identifier: GPL-2.0

/* <linux/ksm.h>, <linux/mm.h> */
#include "shim.h"

bool ksm_v_is_ksm_zero_pte(pte_t pte)
{
	return is_ksm_zero_pte(pte);
}

bool ksm_v_is_plain_zero_pte(pte_t pte)
{
	return pte_present(pte) && is_zero_pfn(pte_pfn(pte)) && !pte_dirty(pte) &&
	       !pte_write(pte) && !ksm_v_pte_uffd(pte);
}

pte_t ksm_v_pte_mark_zero(pte_t pte)
{
	/* As ksm_v_mk_ksm_zero_pte(): pte_mkdirty() also sets the soft-dirty bit. */
	pte_t marked = pte_mkdirty(pte);

	return pte_soft_dirty(pte) ? marked : pte_clear_soft_dirty(marked);
}

void ksm_v_ksm_map_zero_page(struct mm_struct *mm)
{
	/* The body of ksm_map_zero_page(), whose counter is not exported. */
	atomic_long_inc(ksm_v_ksm_zero_pages());
	atomic_long_inc(&mm->ksm_zero_pages);
}

void ksm_v_ksm_might_unmap_zero_page(struct mm_struct *mm, pte_t pte)
{
	/* The body of ksm_might_unmap_zero_page(), whose counter is not exported. */
	if (is_ksm_zero_pte(pte)) {
		atomic_long_dec(ksm_v_ksm_zero_pages());
		atomic_long_dec(&mm->ksm_zero_pages);
	}
}

long ksm_v_mm_ksm_zero_pages(struct mm_struct *mm)
{
	return mm_ksm_zero_pages(mm);
}

void ksm_v_mm_ksm_zero_pages_sub(struct mm_struct *mm, long pages)
{
	atomic_long_sub(pages, &mm->ksm_zero_pages);
}

bool ksm_v_mm_is_ksm_mergeable(struct mm_struct *mm)
{
	return mm_flags_test(MMF_VM_MERGEABLE, mm);
}

long ksm_v_ksm_zero_pages_read(void)
{
	return atomic_long_read(ksm_v_ksm_zero_pages());
}

void ksm_v_ksm_zero_pages_add(long pages)
{
	atomic_long_add(pages, ksm_v_ksm_zero_pages());
}
