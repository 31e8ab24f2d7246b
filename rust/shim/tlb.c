// SPDX-License-Identifier: GPL-2.0

/*
 * <asm/tlb.h>. Some of its inline functions use declarations that x86 hides from modules, so
 * MODULE is undefined. Those functions are not called here.
 */
#undef MODULE
#include <linux/mm.h>
#include <asm/tlb.h>
#include "shim.h"

/*
 * Flushes entries that were cleared in this range. The caller has held the page table lock since it
 * cleared them, so no mm_tlb_flush_pending() is needed to tell others that the flush is still to come.
 */
void ksm_v_flush_tlb_ptes(struct vm_area_struct *vma, unsigned long start, unsigned long end)
{
	struct mmu_gather tlb;

	tlb_gather_mmu(&tlb, vma->vm_mm);
	tlb_start_vma(&tlb, vma);
	tlb_flush_pte_range(&tlb, start, end - start);
	tlb_finish_mmu(&tlb);
}
