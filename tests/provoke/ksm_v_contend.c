// SPDX-License-Identifier: GPL-2.0
/*
 * Makes another CPU wait for a page table lock while the module holds it. The debugfs
 * file ksm_v_contend takes a function of the module that is called under the lock, the
 * positions of its address and entry arguments, and an address. At the call with that
 * address, another CPU begins to wait for the lock before the function runs. Reading the
 * file returns the number of further calls until that CPU had the lock; -1 if it has not
 * had it yet.
 */

#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/kprobes.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/uaccess.h>

/*
 * Number of checks whether the other CPU waits. In a guest that knows it is one, spinlocks do
 * not show waiters, except paravirtual spinlocks of its hypervisor: see virt_spin_lock().
 */
#define LOOKS 20000000L

static unsigned int addr_arg, ptep_arg;
static unsigned long target;
/* The lock to wait for, until a CPU waits. */
static spinlock_t *wanted;
static struct task_struct *holder;
static long calls, result = -1;

static int enter(struct kprobe *probe, struct pt_regs *regs)
{
	pte_t *ptep = (pte_t *)regs_get_kernel_argument(regs, ptep_arg);
	spinlock_t *lock = ptlock_ptr(virt_to_ptdesc(ptep));

	if (holder) {
		if (holder == current)
			WRITE_ONCE(calls, calls + 1);
		return 0;
	}
	if (regs_get_kernel_argument(regs, addr_arg) != target)
		return 0;
	holder = current;
	smp_store_release(&wanted, lock);
	for (long looks = 0; looks < LOOKS && !spin_is_contended(lock); looks++)
		cpu_relax();
	return 0;
}

/* One of these runs on each CPU, since the holder's CPU is busy. */
static int contend(void *unused)
{
	while (!kthread_should_stop()) {
		spinlock_t *lock = smp_load_acquire(&wanted);

		if (!lock || cmpxchg(&wanted, lock, NULL) != lock) {
			usleep_range(100, 200);
			continue;
		}
		spin_lock(lock);
		WRITE_ONCE(result, READ_ONCE(calls));
		spin_unlock(lock);
	}
	return 0;
}

static struct kprobe probe;
static char symbol[64];
static struct task_struct *waiters[NR_CPUS];

static void end_probe(void)
{
	if (probe.addr)
		unregister_kprobe(&probe);
	memset(&probe, 0, sizeof(probe));
	wanted = NULL;
	holder = NULL;
	calls = 0;
	WRITE_ONCE(result, -1);
}

static ssize_t contend_write(struct file *file, const char __user *text, size_t len, loff_t *pos)
{
	char buffer[128];
	int err;

	if (len >= sizeof(buffer))
		return -EINVAL;
	if (copy_from_user(buffer, text, len))
		return -EFAULT;
	buffer[len] = '\0';
	end_probe();
	if (sscanf(buffer, "%63s %u %u %li", symbol, &addr_arg, &ptep_arg, &target) != 4)
		return len; /* Only ends the probe. */
	probe.symbol_name = symbol;
	probe.pre_handler = enter;
	err = register_kprobe(&probe);
	if (err)
		memset(&probe, 0, sizeof(probe));
	return err ? err : len;
}

static int contend_show(struct seq_file *seq, void *unused)
{
	seq_printf(seq, "%ld\n", READ_ONCE(result));
	return 0;
}

DEFINE_SHOW_STORE_ATTRIBUTE(contend);

static struct dentry *dentry;

static void end(void)
{
	int cpu;

	debugfs_remove(dentry);
	end_probe();
	for_each_possible_cpu(cpu) {
		if (waiters[cpu])
			kthread_stop(waiters[cpu]);
	}
}

static int __init contend_init(void)
{
	int cpu;

	for_each_online_cpu(cpu) {
		struct task_struct *task;

		task = kthread_run_on_cpu(contend, NULL, cpu, "ksm_v_contend/%u");
		if (IS_ERR(task)) {
			end();
			return PTR_ERR(task);
		}
		waiters[cpu] = task;
	}
	dentry = debugfs_create_file("ksm_v_contend", 0600, NULL, NULL, &contend_fops);
	if (IS_ERR(dentry)) {
		int err = PTR_ERR(dentry);

		dentry = NULL;
		end();
		return err;
	}
	return 0;
}

static void __exit contend_exit(void)
{
	end();
}

module_init(contend_init);
module_exit(contend_exit);
MODULE_DESCRIPTION("Waits for page table locks of the module");
MODULE_LICENSE("GPL");
