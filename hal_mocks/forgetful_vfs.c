/*
 * A disk that forgets at a power cut what was not synced: an SQLite VFS over the real one.
 *
 * Files directly in a watched folder are read and written where they stand, but never synced for real. Beside
 * each stands in memory what a power cut would leave of it: the image at its last sync, and the writes since.
 * All other files go to the real VFS and never come back here.
 *
 * Simplifications: creating, deleting, renaming and truncating last at once; -shm is the real VFS's alone
 * (SQLite makes it anew after a crash); there is no memory mapping; what others than SQLite write into a file
 * after SQLite opened it is not seen. A file is known by its inode number, so it may be renamed.
 *
 * hal_mocks/forgetful_disk.py compiles this, and has the structs `write`, `image` and `snapshot` again.
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DRAWN 256 /* bytes SQLite asks for to seed its random numbers (RC4's 256; ChaCha20's 44 since 3.41) */

/* A write that was not synced: its bytes stand at `at` in the file's log. */
struct write {
    int64_t offset, length, at;
};

struct image {
    char *name;
    uint32_t mode;
    int64_t size, write_count;
    unsigned char *durable;
    struct write *writes;
    unsigned char *log;
};

struct snapshot {
    int64_t count;
    struct image *images;
};

struct file {
    struct file *next;
    ino_t inode;
    int pin;      /* keeps the number from being given to another file; O_PATH, so that closing it frees no lock */
    int handles;  /* open by SQLite */
    int gone;     /* deleted, or its disk is closed: freed with the last handle */
    int64_t size; /* as written */
    unsigned char *durable;
    int64_t durable_size, durable_room;
    struct write *writes;
    int64_t write_count, write_room;
    unsigned char *log;
    int64_t log_size, log_room;
};

struct disk {
    struct disk *next;
    char *folder; /* with a slash at its end */
    struct file *files;
    int handles, closed, stopped, failing;
    int64_t capacity;   /* what its files may take together; -1: no end in sight */
    int64_t stop_after; /* writes and syncs that are left; 0: it does not stop */
    int64_t writes, syncs;
    struct snapshot *frozen;
};

struct handle {
    sqlite3_file head;
    struct disk *disk;
    struct file *file;
};

#define REAL(h) ((sqlite3_file *)((struct handle *)(h) + 1))

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* guards all that follows and every disk */
static sqlite3_vfs *real_vfs;
static sqlite3_vfs vfs;
static struct disk *disks;
static unsigned char drawn[DRAWN];
static int is_drawn;

/* ---- memory ---- */

/* Make room for `need` elements of `size` bytes; doubles, so that growing is cheap. */
static int reserve(void **memory, int64_t *room, int64_t need, size_t size)
{
    if (need <= *room)
        return 1;
    int64_t more = *room ? *room : 64;
    while (more < need)
        more *= 2;
    void *moved = realloc(*memory, (size_t)more * size);
    if (!moved)
        return 0;
    *memory = moved;
    *room = more;
    return 1;
}

/* A copy; never NULL for lack of bytes. */
static void *copy_of(const void *bytes, int64_t length)
{
    void *copy = malloc(length > 0 ? (size_t)length : 1);
    if (copy && length > 0)
        memcpy(copy, bytes, (size_t)length);
    return copy;
}

/* Cut the durable image, or let it grow by zeros. */
static int resize_durable(struct file *f, int64_t size)
{
    if (!reserve((void **)&f->durable, &f->durable_room, size, 1))
        return 0;
    if (size > f->durable_size)
        memset(f->durable + f->durable_size, 0, (size_t)(size - f->durable_size));
    f->durable_size = size;
    return 1;
}

static int remember_write(struct file *f, const void *bytes, int64_t length, int64_t offset)
{
    if (!reserve((void **)&f->writes, &f->write_room, f->write_count + 1, sizeof *f->writes) ||
        !reserve((void **)&f->log, &f->log_room, f->log_size + length, 1))
        return 0;
    f->writes[f->write_count++] = (struct write){offset, length, f->log_size};
    memcpy(f->log + f->log_size, bytes, (size_t)length);
    f->log_size += length;
    if (offset + length > f->size)
        f->size = offset + length;
    return 1;
}

static int remember_sync(struct file *f)
{
    for (int64_t i = 0; i < f->write_count; i++) {
        const struct write *w = &f->writes[i];
        if (w->offset + w->length > f->durable_size && !resize_durable(f, w->offset + w->length))
            return 0;
        memcpy(f->durable + w->offset, f->log + w->at, (size_t)w->length);
    }
    f->write_count = f->log_size = 0;
    return 1;
}

/* The file ends here: so do its image and the writes that reached farther. */
static int remember_truncate(struct file *f, int64_t size)
{
    if ((size < f->durable_size || size > f->size) && !resize_durable(f, size))
        return 0;
    int64_t kept = 0;
    for (int64_t i = 0; i < f->write_count; i++) {
        struct write w = f->writes[i];
        if (w.offset >= size)
            continue;
        if (w.length > size - w.offset)
            w.length = size - w.offset;
        f->writes[kept++] = w;
    }
    f->write_count = kept;
    f->size = size;
    return 1;
}

static void free_file(struct file *f)
{
    if (f->pin >= 0)
        close(f->pin);
    free(f->durable);
    free(f->writes);
    free(f->log);
    free(f);
}

/* Take a file out of its disk; its handles may live on. */
static void drop_file(struct disk *d, struct file *gone)
{
    struct file **link = &d->files;
    while (*link != gone)
        link = &(*link)->next;
    *link = gone->next;
    gone->gone = 1;
    if (!gone->handles)
        free_file(gone);
}

static struct file *file_of(struct disk *d, ino_t inode)
{
    struct file *f = d->files;
    while (f && f->inode != inode)
        f = f->next;
    return f;
}

/* What is there when SQLite opens it for the first time counts as durable. NULL: no memory, or not readable. */
static struct file *first_seen(struct disk *d, const char *path, ino_t inode, sqlite3_file *real)
{
    sqlite3_int64 size;
    struct file *f = calloc(1, sizeof *f);
    if (!f)
        return NULL;
    f->inode = inode;
    f->pin = open(path, O_PATH | O_CLOEXEC);
    if (f->pin < 0 || real->pMethods->xFileSize(real, &size) || !resize_durable(f, size))
        goto failed;
    for (int64_t at = 0, step; at < size; at += step) {
        step = size - at < 1 << 20 ? size - at : 1 << 20;
        if (real->pMethods->xRead(real, f->durable + at, (int)step, at))
            goto failed;
    }
    f->size = size;
    f->next = d->files;
    d->files = f;
    return f;
failed:
    free_file(f);
    return NULL;
}

/* ---- what is left ---- */

static int ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), e = strlen(end);
    return n >= e && strcmp(name + n - e, end) == 0;
}

/* The next regular file of the folder that means anything to a later life, 1; 0 at the end. */
static int next_file(DIR *folder, struct dirent **entry, struct stat *status)
{
    while ((*entry = readdir(folder)))
        if (!ends_with((*entry)->d_name, "-shm") && !ends_with((*entry)->d_name, ".lock") &&
            !fstatat(dirfd(folder), (*entry)->d_name, status, AT_SYMLINK_NOFOLLOW) &&
            S_ISREG(status->st_mode))
            return 1;
    return 0;
}

/* Bytes its files take together; -1 if the folder cannot be read. */
static int64_t taken(const struct disk *d)
{
    struct dirent *entry;
    struct stat status;
    int64_t sum = 0;
    DIR *folder = opendir(d->folder);
    if (!folder)
        return -1;
    while (next_file(folder, &entry, &status))
        sum += status.st_size;
    closedir(folder);
    return sum;
}

static void free_snapshot(struct snapshot *s)
{
    for (int64_t i = 0; s && i < s->count; i++) {
        free(s->images[i].name);
        free(s->images[i].durable);
        free(s->images[i].writes);
        free(s->images[i].log);
    }
    if (s)
        free(s->images);
    free(s);
}

static int copy_known(struct image *image, const struct file *f)
{
    image->size = f->durable_size;
    image->write_count = f->write_count;
    image->durable = copy_of(f->durable, f->durable_size);
    image->writes = copy_of(f->writes, f->write_count * (int64_t)sizeof *f->writes);
    image->log = copy_of(f->log, f->log_size);
    return image->durable && image->writes && image->log;
}

/* A file that SQLite never opened: what is there, stays. */
static int copy_other(struct image *image, int folder, int64_t size)
{
    int fd = openat(folder, image->name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    ssize_t got = -1;
    if (fd < 0)
        return 0;
    image->durable = malloc(size > 0 ? (size_t)size : 1);
    while (image->durable && image->size < size &&
           (got = read(fd, image->durable + image->size, (size_t)(size - image->size))) > 0)
        image->size += got;
    close(fd);
    return image->durable && (size == 0 || got >= 0);
}

static struct snapshot *take_snapshot(struct disk *d)
{
    struct dirent *entry;
    struct stat status;
    int64_t room = 0;
    int is_whole = 1;
    struct snapshot *s = calloc(1, sizeof *s);
    DIR *folder = opendir(d->folder);
    while (s && folder && is_whole && next_file(folder, &entry, &status)) {
        if (!reserve((void **)&s->images, &room, s->count + 1, sizeof *s->images)) {
            is_whole = 0;
            break;
        }
        struct image *image = &s->images[s->count++];
        const struct file *f = file_of(d, status.st_ino);
        memset(image, 0, sizeof *image);
        image->mode = status.st_mode & 07777;
        image->name = strdup(entry->d_name);
        is_whole = image->name &&
                   (f ? copy_known(image, f) : copy_other(image, dirfd(folder), status.st_size));
    }
    is_whole = is_whole && s && folder;
    if (folder)
        closedir(folder);
    if (!is_whole) {
        free_snapshot(s);
        return NULL;
    }
    return s;
}

static void stop(struct disk *d)
{
    if (!d->stopped)
        d->frozen = take_snapshot(d);
    d->stopped = 1;
}

/* Count one write or sync; 1 if it was the last. */
static int is_last(struct disk *d, int64_t *counter)
{
    ++*counter;
    return d->stop_after > 0 && --d->stop_after == 0;
}

/* ---- one open file ---- */

/* Methods of the real VFS that need no care. */
#define FORWARD(name, declared, ...)                                                                          \
    static int name declared { return REAL(h)->pMethods->name(REAL(h), ##__VA_ARGS__); }

FORWARD(xFileSize, (sqlite3_file *h, sqlite3_int64 *size), size)
FORWARD(xLock, (sqlite3_file *h, int level), level)
FORWARD(xUnlock, (sqlite3_file *h, int level), level)
FORWARD(xCheckReservedLock, (sqlite3_file *h, int *is_reserved), is_reserved)
FORWARD(xSectorSize, (sqlite3_file *h))
FORWARD(xShmLock, (sqlite3_file *h, int offset, int n, int flags), offset, n, flags)
FORWARD(xShmUnmap, (sqlite3_file *h, int delete_it), delete_it)

static void xShmBarrier(sqlite3_file *h) { REAL(h)->pMethods->xShmBarrier(REAL(h)); }

static int is_stopped(sqlite3_file *h)
{
    pthread_mutex_lock(&mutex);
    int stopped = ((struct handle *)h)->disk->stopped;
    pthread_mutex_unlock(&mutex);
    return stopped;
}

static int xRead(sqlite3_file *h, void *bytes, int length, sqlite3_int64 offset)
{
    return is_stopped(h) ? SQLITE_IOERR_READ : REAL(h)->pMethods->xRead(REAL(h), bytes, length, offset);
}

static int xShmMap(sqlite3_file *h, int region, int size, int extend, void volatile **at)
{
    return is_stopped(h) ? SQLITE_IOERR_SHMMAP
                         : REAL(h)->pMethods->xShmMap(REAL(h), region, size, extend, at);
}

static int has_room(const struct disk *d, int64_t growth)
{
    return d->capacity < 0 || growth <= 0 || taken(d) + growth <= d->capacity;
}

static int xWrite(sqlite3_file *h, const void *bytes, int length, sqlite3_int64 offset)
{
    struct disk *d = ((struct handle *)h)->disk;
    struct file *f = ((struct handle *)h)->file;
    int rc = SQLITE_IOERR_WRITE;
    pthread_mutex_lock(&mutex);
    if (d->stopped || d->failing)
        goto done;
    rc = SQLITE_FULL;
    if (!has_room(d, offset + length - f->size))
        goto done;
    rc = REAL(h)->pMethods->xWrite(REAL(h), bytes, length, offset);
    if (rc == SQLITE_OK && !remember_write(f, bytes, length, offset))
        rc = SQLITE_IOERR_NOMEM;
    if (rc == SQLITE_OK && is_last(d, &d->writes)) {
        stop(d);
        rc = SQLITE_IOERR_WRITE;
    }
done:
    pthread_mutex_unlock(&mutex);
    return rc;
}

static int xTruncate(sqlite3_file *h, sqlite3_int64 size)
{
    struct disk *d = ((struct handle *)h)->disk;
    struct file *f = ((struct handle *)h)->file;
    int rc = SQLITE_IOERR_TRUNCATE;
    pthread_mutex_lock(&mutex);
    if (d->stopped || d->failing)
        goto done;
    rc = SQLITE_FULL;
    if (!has_room(d, size - f->size))
        goto done;
    rc = REAL(h)->pMethods->xTruncate(REAL(h), size);
    if (rc == SQLITE_OK && !remember_truncate(f, size))
        rc = SQLITE_IOERR_NOMEM;
    if (rc == SQLITE_OK && is_last(d, &d->writes)) {
        stop(d);
        rc = SQLITE_IOERR_TRUNCATE;
    }
done:
    pthread_mutex_unlock(&mutex);
    return rc;
}

static int xSync(sqlite3_file *h, int flags)
{
    struct disk *d = ((struct handle *)h)->disk;
    int rc = SQLITE_OK;
    (void)flags;
    pthread_mutex_lock(&mutex);
    if (d->stopped || d->failing) {
        rc = SQLITE_IOERR_FSYNC;
    } else if (is_last(d, &d->syncs)) {
        stop(d);
        rc = SQLITE_IOERR_FSYNC;
    } else if (!remember_sync(((struct handle *)h)->file)) {
        rc = SQLITE_IOERR_NOMEM;
    }
    pthread_mutex_unlock(&mutex);
    return rc;
}

static int xFileControl(sqlite3_file *h, int op, void *argument)
{
    switch (op) {
    case SQLITE_FCNTL_SIZE_HINT: /* these grow the file or write it past us */
    case SQLITE_FCNTL_CHUNK_SIZE:
    case SQLITE_FCNTL_MMAP_SIZE:
    case SQLITE_FCNTL_BEGIN_ATOMIC_WRITE:
    case SQLITE_FCNTL_COMMIT_ATOMIC_WRITE:
    case SQLITE_FCNTL_ROLLBACK_ATOMIC_WRITE:
        return SQLITE_NOTFOUND;
    default:
        return REAL(h)->pMethods->xFileControl(REAL(h), op, argument);
    }
}

/* No more is promised than that bytes beside a write stay as they are. */
static int xDeviceCharacteristics(sqlite3_file *h)
{
    return REAL(h)->pMethods->xDeviceCharacteristics(REAL(h)) & SQLITE_IOCAP_POWERSAFE_OVERWRITE;
}

static void free_disk_if_unused(struct disk *d)
{
    if (d->closed && !d->handles) {
        free_snapshot(d->frozen);
        free(d->folder);
        free(d);
    }
}

static int xClose(sqlite3_file *h)
{
    struct disk *d = ((struct handle *)h)->disk;
    struct file *f = ((struct handle *)h)->file;
    int rc = REAL(h)->pMethods->xClose(REAL(h));
    pthread_mutex_lock(&mutex);
    if (--f->handles == 0 && f->gone)
        free_file(f);
    d->handles--;
    free_disk_if_unused(d);
    pthread_mutex_unlock(&mutex);
    return rc;
}

static const sqlite3_io_methods methods = {
    .iVersion = 2, /* 3 would be memory mapping */
    .xClose = xClose,
    .xRead = xRead,
    .xWrite = xWrite,
    .xTruncate = xTruncate,
    .xSync = xSync,
    .xFileSize = xFileSize,
    .xLock = xLock,
    .xUnlock = xUnlock,
    .xCheckReservedLock = xCheckReservedLock,
    .xFileControl = xFileControl,
    .xSectorSize = xSectorSize,
    .xDeviceCharacteristics = xDeviceCharacteristics,
    .xShmMap = xShmMap,
    .xShmLock = xShmLock,
    .xShmBarrier = xShmBarrier,
    .xShmUnmap = xShmUnmap,
};

/* ---- the folders ---- */

/* Whose folder the file stands in, or NULL. Call with the mutex. */
static struct disk *disk_of(const char *path)
{
    struct disk *d = path ? disks : NULL;
    for (; d; d = d->next) {
        size_t n = strlen(d->folder);
        if (strncmp(path, d->folder, n) == 0 && !strchr(path + n, '/'))
            return d;
    }
    return NULL;
}

static int xOpen(sqlite3_vfs *self, const char *path, sqlite3_file *opened, int flags, int *out_flags)
{
    struct handle *h = (struct handle *)opened;
    struct stat status;
    int rc;
    (void)self;
    pthread_mutex_lock(&mutex);
    struct disk *d = disk_of(path);
    if (!d) {
        pthread_mutex_unlock(&mutex);
        return real_vfs->xOpen(real_vfs, path, opened, flags, out_flags);
    }
    h->head.pMethods = NULL;
    REAL(h)->pMethods = NULL;
    rc = d->stopped ? SQLITE_IOERR : real_vfs->xOpen(real_vfs, path, REAL(h), flags, out_flags);
    if (rc == SQLITE_OK) {
        struct file *f = NULL;
        if (REAL(h)->pMethods->iVersion >= 2 && stat(path, &status) == 0) {
            f = file_of(d, status.st_ino);
            if (!f)
                f = first_seen(d, path, status.st_ino, REAL(h));
        }
        if (f) {
            h->head.pMethods = &methods;
            h->disk = d;
            h->file = f;
            f->handles++;
            d->handles++;
        } else {
            rc = SQLITE_CANTOPEN;
        }
    }
    if (rc != SQLITE_OK && REAL(h)->pMethods)
        REAL(h)->pMethods->xClose(REAL(h));
    pthread_mutex_unlock(&mutex);
    return rc;
}

static int xDelete(sqlite3_vfs *self, const char *path, int sync_folder)
{
    struct stat status;
    int rc = SQLITE_IOERR_DELETE;
    (void)self;
    pthread_mutex_lock(&mutex);
    struct disk *d = disk_of(path);
    if (!d) {
        pthread_mutex_unlock(&mutex);
        return real_vfs->xDelete(real_vfs, path, sync_folder);
    }
    if (!d->stopped && !d->failing) {
        struct file *f = stat(path, &status) == 0 ? file_of(d, status.st_ino) : NULL;
        rc = real_vfs->xDelete(real_vfs, path, 0);
        if (rc == SQLITE_OK) {
            if (f)
                drop_file(d, f);
            if (is_last(d, &d->writes)) {
                stop(d);
                rc = SQLITE_IOERR_DELETE;
            }
        }
    }
    pthread_mutex_unlock(&mutex);
    return rc;
}

static int xAccess(sqlite3_vfs *self, const char *path, int flags, int *is_so)
{
    (void)self;
    pthread_mutex_lock(&mutex);
    const struct disk *d = disk_of(path);
    int stopped = d && d->stopped;
    pthread_mutex_unlock(&mutex);
    return stopped ? SQLITE_IOERR_ACCESS : real_vfs->xAccess(real_vfs, path, flags, is_so);
}

static int xRandomness(sqlite3_vfs *self, int length, char *bytes)
{
    (void)self;
    pthread_mutex_lock(&mutex);
    int is_ours = is_drawn;
    for (int i = 0; is_ours && i < length; i++)
        bytes[i] = (char)drawn[i % DRAWN];
    pthread_mutex_unlock(&mutex);
    return is_ours ? length : real_vfs->xRandomness(real_vfs, length, bytes);
}

/* ---- for forgetful_disk.py ---- */

const char *forgetful_sqlite_version(void) { return sqlite3_libversion(); }

/* Become the default VFS; 0 if the one that is now is not SQLite's own for Unix. */
int forgetful_register(void)
{
    real_vfs = sqlite3_vfs_find(NULL);
    if (!real_vfs || strcmp(real_vfs->zName, "unix") != 0)
        return 0;
    vfs = *real_vfs; /* with its pAppData, so that the methods we leave work */
    vfs.pNext = NULL;
    vfs.zName = "forgetful";
    vfs.szOsFile = (int)sizeof(struct handle) + real_vfs->szOsFile;
    vfs.xOpen = xOpen;
    vfs.xDelete = xDelete;
    vfs.xAccess = xAccess;
    vfs.xRandomness = xRandomness;
    return sqlite3_vfs_register(&vfs, 1) == SQLITE_OK;
}

/* Let SQLite's random numbers of this process follow from these bytes; NULL: be unforeseeable again. */
void forgetful_draw(const unsigned char *bytes)
{
    pthread_mutex_lock(&mutex);
    is_drawn = bytes != NULL;
    if (bytes)
        memcpy(drawn, bytes, DRAWN);
    pthread_mutex_unlock(&mutex);
    sqlite3_randomness(0, NULL); /* asks xRandomness at the next use */
}

/* `folder` is a real path that ends with a slash. NULL: no memory, or another disk has it. */
struct disk *forgetful_watch(const char *folder)
{
    struct disk *d = calloc(1, sizeof *d);
    pthread_mutex_lock(&mutex);
    if (d && (disk_of(folder) || !(d->folder = strdup(folder)))) {
        free(d);
        d = NULL;
    }
    if (d) {
        d->capacity = -1;
        d->next = disks;
        disks = d;
    }
    pthread_mutex_unlock(&mutex);
    return d;
}

/* Handles that are still open meet a stopped disk, and free what they need when they are closed. */
void forgetful_close(struct disk *d)
{
    pthread_mutex_lock(&mutex);
    struct disk **link = &disks;
    while (*link != d)
        link = &(*link)->next;
    *link = d->next;
    while (d->files)
        drop_file(d, d->files);
    d->stopped = d->closed = 1;
    free_disk_if_unused(d);
    pthread_mutex_unlock(&mutex);
}

void forgetful_stop_after(struct disk *d, int64_t writes)
{
    pthread_mutex_lock(&mutex);
    d->stop_after = writes;
    pthread_mutex_unlock(&mutex);
}

void forgetful_stop(struct disk *d)
{
    pthread_mutex_lock(&mutex);
    stop(d);
    pthread_mutex_unlock(&mutex);
}

void forgetful_set_failing(struct disk *d, int failing)
{
    pthread_mutex_lock(&mutex);
    d->failing = failing;
    pthread_mutex_unlock(&mutex);
}

/* Full: from now on the files may not take more together than they do now. 0 if the folder cannot be read. */
int forgetful_set_full(struct disk *d, int full)
{
    pthread_mutex_lock(&mutex);
    d->capacity = full ? taken(d) : -1;
    int known = !full || d->capacity >= 0;
    pthread_mutex_unlock(&mutex);
    return known;
}

int64_t forgetful_writes(struct disk *d)
{
    pthread_mutex_lock(&mutex);
    int64_t writes = d->writes;
    pthread_mutex_unlock(&mutex);
    return writes;
}

int64_t forgetful_syncs(struct disk *d)
{
    pthread_mutex_lock(&mutex);
    int64_t syncs = d->syncs;
    pthread_mutex_unlock(&mutex);
    return syncs;
}

int forgetful_stopped(struct disk *d)
{
    pthread_mutex_lock(&mutex);
    int stopped = d->stopped;
    pthread_mutex_unlock(&mutex);
    return stopped;
}

/* What is there now, or was when it stopped; NULL if it could not be copied. Give it back before the disk is
   closed. */
struct snapshot *forgetful_snapshot(struct disk *d)
{
    pthread_mutex_lock(&mutex);
    struct snapshot *s = d->stopped ? d->frozen : take_snapshot(d);
    pthread_mutex_unlock(&mutex);
    return s;
}

void forgetful_give_back(struct disk *d, struct snapshot *s)
{
    pthread_mutex_lock(&mutex);
    if (s != d->frozen)
        free_snapshot(s);
    pthread_mutex_unlock(&mutex);
}
