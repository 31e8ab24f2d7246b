// SPDX-License-Identifier: GPL-2.0
/*
 * Provokes the checkers of a debug kernel: a name in the table, written to the debugfs
 * file ksm_v_provoke, makes one error that a checker must report.
 */

#include <linux/debugfs.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/timer.h>
#include <linux/uaccess.h>

/* More than the allocator's caches hold: pointers to some objects remain there. */
#define LEAKS 512

static DEFINE_MUTEX(first);
static DEFINE_MUTEX(second);
static DEFINE_SPINLOCK(held);

/* Results go here, so that the compiler keeps the code. */
static volatile int sink;

/* No error: the checkers must be quiet. */
static int nothing(void)
{
	return 0;
}

/* lockdep: an RCU pointer read without the lock. */
static int rcu(void)
{
	static int __rcu *pointer;

	sink = rcu_dereference(pointer) != NULL;
	return 0;
}

/* lockdep: two locks in both orders, without a deadlock. */
static int lockdep(void)
{
	mutex_lock(&first);
	mutex_lock(&second);
	mutex_unlock(&second);
	mutex_unlock(&first);

	mutex_lock(&second);
	mutex_lock(&first);
	mutex_unlock(&first);
	mutex_unlock(&second);
	return 0;
}

/* DEBUG_ATOMIC_SLEEP: a function that may sleep, under a spinlock. */
static int atomic_sleep(void)
{
	spin_lock(&held);
	might_sleep();
	spin_unlock(&held);
	return 0;
}

/* UBSAN: a shift by more than an int has bits. */
static int ubsan(void)
{
	static volatile int bits = 40;

	sink = 1 << bits;
	return 0;
}

static void no_timeout(struct timer_list *timer)
{
}

/* DEBUG_OBJECTS: a running timer in memory that is freed. */
static int debug_objects(void)
{
	struct timer_list *timer = kzalloc(sizeof(*timer), GFP_KERNEL);

	if (!timer)
		return -ENOMEM;
	timer_setup(timer, no_timeout, 0);
	mod_timer(timer, jiffies + 3600 * HZ);
	kfree(timer);
	return 0;
}

/* KMEMLEAK, when asked to scan: memory without a pointer to it. */
static int kmemleak(void)
{
	for (int i = 0; i < LEAKS; i++) {
		void *leak = kmalloc(128, GFP_KERNEL);

		if (!leak)
			return -ENOMEM;
		sink = (unsigned long)leak >> PAGE_SHIFT;
	}
	return 0;
}

/* KASAN: a read of the byte behind an object of the slab allocator. */
static int kasan(void)
{
	size_t size = 24;
	char *object = kzalloc(size, GFP_KERNEL);

	if (!object)
		return -ENOMEM;
	OPTIMIZER_HIDE_VAR(size);
	sink = *(volatile char *)(object + size);
	kfree(object);
	return 0;
}

static const struct {
	const char *name;
	int (*provoke)(void);
} provocations[] = {
	{ "nothing", nothing },
	{ "rcu", rcu },
	{ "lockdep", lockdep },
	{ "atomic_sleep", atomic_sleep },
	{ "ubsan", ubsan },
	{ "debug_objects", debug_objects },
	{ "kmemleak", kmemleak },
	{ "kasan", kasan },
};

static int provoke(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(provocations); i++) {
		if (!strcmp(provocations[i].name, name))
			return provocations[i].provoke();
	}
	return -EINVAL;
}

static ssize_t provoke_write(struct file *file, const char __user *text, size_t len, loff_t *pos)
{
	char name[32];
	int err;

	if (len >= sizeof(name))
		return -EINVAL;
	if (copy_from_user(name, text, len))
		return -EFAULT;
	name[len] = '\0';
	err = provoke(strim(name));
	return err ? err : len;
}

static const struct file_operations provoke_fops = {
	.owner = THIS_MODULE,
	.write = provoke_write,
};

static struct dentry *dentry;

static int __init provoke_init(void)
{
	dentry = debugfs_create_file("ksm_v_provoke", 0200, NULL, NULL, &provoke_fops);
	return PTR_ERR_OR_ZERO(dentry);
}

static void __exit provoke_exit(void)
{
	debugfs_remove(dentry);
}

module_init(provoke_init);
module_exit(provoke_exit);
MODULE_DESCRIPTION("Provokes the checkers of a debug kernel");
MODULE_LICENSE("GPL");
