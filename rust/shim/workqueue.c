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
