// SPDX-License-Identifier: GPL-2.0

/* <linux/spinlock.h> */
#include "shim.h"

void ksm_v_spin_unlock(spinlock_t *lock)
{
	spin_unlock(lock);
}

bool ksm_v_spin_is_contended(spinlock_t *lock)
{
	return spin_is_contended(lock);
}
