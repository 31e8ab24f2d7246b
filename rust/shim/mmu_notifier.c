// SPDX-License-Identifier: GPL-2.0

/* <linux/mmu_notifier.h> */
#include "shim.h"

void ksm_v_mmu_notifier_range_init(struct mmu_notifier_range *range, struct mm_struct *mm,
				   unsigned long start, unsigned long end)
{
	mmu_notifier_range_init(range, MMU_NOTIFY_CLEAR, 0, mm, start, end);
}

void ksm_v_mmu_notifier_invalidate_range_start(struct mmu_notifier_range *range)
{
	mmu_notifier_invalidate_range_start(range);
}

void ksm_v_mmu_notifier_invalidate_range_end(struct mmu_notifier_range *range)
{
	mmu_notifier_invalidate_range_end(range);
}
