// SPDX-License-Identifier: GPL-2.0

/* <linux/irq_work.h> */
#include "shim.h"

void ksm_v_init_irq_work(struct irq_work *work, void (*func)(struct irq_work *))
{
	init_irq_work(work, func);
}
