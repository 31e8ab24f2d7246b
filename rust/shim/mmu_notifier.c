// SPDX-License-Identifier: GPL-2.0

/* <linux/mmu_notifier.h> */
#include "shim.h"

void ksm_v_mmu_notifier_range_init(struct mmu_notifier_range *range, struct mm_struct *mm,
				   unsigned long start, unsigned long end)
{
	mmu_notifier_range_init(range, MMU_NOTIFY_CLEAR, 0, mm, start, end);
}

int ksm_v_mmu_notifier_invalidate_range_start_nonblock(struct mmu_notifier_range *range)
{
	return mmu_notifier_invalidate_range_start_nonblock(range);
}

void ksm_v_mmu_notifier_invalidate_range_end(struct mmu_notifier_range *range)
{
	mmu_notifier_invalidate_range_end(range);
}

#ifdef CONFIG_MMU_NOTIFIER
/* The first fields of struct mmu_notifier_subscriptions, which is private to mm/mmu_notifier.c. */
struct subscriptions {
	struct hlist_head list;
	bool has_itree;
};

/* The caller must hold a reference to the mm, which keeps its subscriptions. */
bool ksm_v_mm_has_interval_notifiers(struct mm_struct *mm)
{
	struct subscriptions *subscriptions = (void *)smp_load_acquire(&mm->notifier_subscriptions);

	return subscriptions && READ_ONCE(subscriptions->has_itree);
}
#else
bool ksm_v_mm_has_interval_notifiers(struct mm_struct *mm)
{
	return false;
}
#endif
