// SPDX-License-Identifier: GPL-2.0

/* <linux/workqueue.h> */
#include "shim.h"

void ksm_v_init_work(struct work_struct *work, work_func_t func)
{
	INIT_WORK(work, func);
}

bool ksm_v_queue_work(struct workqueue_struct *wq, struct work_struct *work)
{
	return queue_work(wq, work);
}

static void tidy(struct work_struct *work);
/* Deferrable, so that it does not wake an idle CPU. */
static DECLARE_DEFERRABLE_WORK(tidy_work, tidy);

void ksm_v_tidy_later(u32 ms)
{
	queue_delayed_work(system_power_efficient_wq, &tidy_work, msecs_to_jiffies(ms));
}

static void tidy(struct work_struct *work)
{
	u32 ms = ksm_v_tidy();

	if (ms)
		ksm_v_tidy_later(ms);
}

void ksm_v_tidy_end(void)
{
	cancel_delayed_work_sync(&tidy_work);
}
