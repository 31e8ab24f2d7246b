// SPDX-License-Identifier: GPL-2.0

/*
 * <asm/tlb.h>, whose inline functions flush by what x86 hides from modules. None of those is
 * called here.
 */
#undef MODULE
#include <linux/mm.h>
#include <asm/tlb.h>
#include "shim.h"

/*
 * Flushes entries that were cleared in this range. The page table lock is held since then, so that
 * nobody has to be told (mm_tlb_flush_pending()) that this is still to come.
 */
void ksm_v_flush_tlb_ptes(struct vm_area_struct *vma, unsigned long start, unsigned long end)
{
	struct mmu_gather tlb;

	tlb_gather_mmu(&tlb, vma->vm_mm);
	tlb_start_vma(&tlb, vma);
	tlb_flush_pte_range(&tlb, start, end - start);
	tlb_finish_mmu(&tlb);
}
