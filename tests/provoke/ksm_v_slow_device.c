// SPDX-License-Identifier: GPL-2.0
/*
 * A device that maps memory of the process pid, len bytes from start on, and is slow to
 * unmap it: its notifier waits for a minute, like a job of a GPU, or until the module is
 * removed. The parameter waited returns how often callers waited.
 */

#include <linux/mmu_notifier.h>
#include <linux/module.h>
#include <linux/wait.h>

#include "mm_of.h"

static int pid;
module_param(pid, int, 0400);
static unsigned long start;
module_param(start, ulong, 0400);
static unsigned long len;
module_param(len, ulong, 0400);
static int waited;
module_param(waited, int, 0400);

static bool is_going;
static DECLARE_WAIT_QUEUE_HEAD(waiting);

/* Not an interval notifier: the module leaves memory with interval notifiers alone. */
static int device_invalidate(struct mmu_notifier *notifier, const struct mmu_notifier_range *range)
{
	if (range->end <= start || range->start >= start + len)
		return 0;
	if (!mmu_notifier_range_blockable(range))
		return -EAGAIN;
	waited++;
	wait_event_timeout(waiting, READ_ONCE(is_going), 60 * HZ);
	return 0;
}

static const struct mmu_notifier_ops device_ops = {
	.invalidate_range_start = device_invalidate,
};

static struct mmu_notifier notifier = {
	.ops = &device_ops,
};

static int __init device_init(void)
{
	struct mm_struct *mm = mm_of(pid);
	int err;

	if (!mm)
		return -ESRCH;
	err = mmu_notifier_register(&notifier, mm);
	mmput(mm);
	return err;
}

static void __exit device_exit(void)
{
	WRITE_ONCE(is_going, true);
	wake_up_all(&waiting);
	mmu_notifier_unregister(&notifier, notifier.mm);
}

module_init(device_init);
module_exit(device_exit);
MODULE_DESCRIPTION("A device that does not forget memory at once");
MODULE_LICENSE("GPL");
