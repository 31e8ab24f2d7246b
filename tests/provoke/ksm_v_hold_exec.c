// SPDX-License-Identifier: GPL-2.0
/*
 * Stops the exec of a process when its new address space is in use and has nothing but a
 * temporary stack: before setup_arg_pages(), which moves the stack to its place. The id
 * of the process is written to the debugfs file ksm_v_hold_exec; another number lets it
 * continue. Reading the file returns the number of stopped execs.
 */

#include <linux/binfmts.h>
#include <linux/debugfs.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/uaccess.h>
#include <linux/wait.h>

static atomic_t wanted = ATOMIC_INIT(0);
static atomic_t held = ATOMIC_INIT(0);
static DECLARE_WAIT_QUEUE_HEAD(waiting);

/* Replaces the first call of setup_arg_pages() by the process. */
static int hold(struct linux_binprm *bprm, unsigned long stack_top, int executable_stack)
{
	int tgid = current->tgid;

	atomic_inc(&held);
	wait_event_killable(waiting, atomic_read(&wanted) != tgid);
	atomic_dec(&held);
	/* A process that was killed must not be held again by this call. */
	atomic_cmpxchg(&wanted, tgid, 0);
	return setup_arg_pages(bprm, stack_top, executable_stack);
}

static int enter(struct kprobe *probe, struct pt_regs *regs)
{
	if (atomic_read(&wanted) != current->tgid)
		return 0;
	instruction_pointer_set(regs, (unsigned long)hold);
	return 1;
}

/* A probe with this handler is not optimized to a jump, which would ignore the new instruction pointer. */
static void after(struct kprobe *probe, struct pt_regs *regs, unsigned long flags)
{
}

static struct kprobe probe = {
	.symbol_name = "setup_arg_pages",
	.pre_handler = enter,
	.post_handler = after,
};

static ssize_t hold_write(struct file *file, const char __user *text, size_t len, loff_t *pos)
{
	int tgid, err = kstrtoint_from_user(text, len, 0, &tgid);

	if (err)
		return err;
	atomic_set(&wanted, tgid);
	wake_up_all(&waiting);
	return len;
}

static int hold_show(struct seq_file *seq, void *unused)
{
	seq_printf(seq, "%d\n", atomic_read(&held));
	return 0;
}

DEFINE_SHOW_STORE_ATTRIBUTE(hold);

static struct dentry *dentry;

static int __init hold_init(void)
{
	int err = register_kprobe(&probe);

	if (err)
		return err;
	dentry = debugfs_create_file("ksm_v_hold_exec", 0600, NULL, NULL, &hold_fops);
	if (IS_ERR(dentry))
		unregister_kprobe(&probe);
	return PTR_ERR_OR_ZERO(dentry);
}

/* Tests unload it only when no exec is held. */
static void __exit hold_exit(void)
{
	debugfs_remove(dentry);
	unregister_kprobe(&probe);
}

module_init(hold_init);
module_exit(hold_exit);
MODULE_DESCRIPTION("Holds execs in the middle");
MODULE_LICENSE("GPL");
