/* Stands in for nbdkit's plugin `vddk` and for VMware's library behind it, which nobody may pass on: with the parameters of the real one, read as
 * strictly, it serves files of this machine.
 *
 * In LIBDIR lie `lib64/libvixDiskLib.so.7` (anything that can be loaded), `map` with one line for each disk,
 *
 *     FILE|SERVER|USER|PASSWORD|THUMBPRINT|LOCAL-FILE
 *
 * and, where reading is to take its time, `pace`: microseconds for each request; and where the machine runs, `running`: then a disk is read as of a
 * snapshot alone. What is not here: writing, and more than one version.
 */

#define NBDKIT_API_VERSION 2
#define _GNU_SOURCE
#include <nbdkit-plugin.h>

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

static char *libdir, *password;
static const char *server, *port, *user, *thumbprint, *vm, *snapshot, *transports, *file;

static int
standin_config (const char *key, const char *value)
{
  struct { const char *key; const char **place; } texts[] = {
    { "server", &server }, { "port", &port }, { "user", &user }, { "thumbprint", &thumbprint }, { "vm", &vm },
    { "snapshot", &snapshot }, { "transports", &transports }, { "file", &file },
  };
  if (strcmp (key, "libdir") == 0)
    return (libdir = nbdkit_realpath (value)) ? 0 : -1;
  if (strcmp (key, "password") == 0) {
    /* One that stands in an argument can be read by everybody. */
    if (value[0] != '+' && value[0] != '-') {
      nbdkit_error ("the password is in an argument");
      return -1;
    }
    return nbdkit_read_password (value, &password);
  }
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; ++i)
    if (strcmp (key, texts[i].key) == 0) {
      *texts[i].place = value;
      return 0;
    }
  nbdkit_error ("unknown parameter '%s'", key);
  return -1;
}

static int
standin_config_complete (void)
{
  if (!libdir || !server || !user || !password || !thumbprint || !vm || !file) {
    nbdkit_error ("remote connection requested, missing parameter");
    return -1;
  }
  if (strncmp (vm, "moref=", 6) != 0) {
    nbdkit_error ("it is not said by its managed object which machine is meant: %s", vm);
    return -1;
  }
  return 0;
}

static int
standin_get_ready (void)
{
  char path[4096];
  const char *loads = getenv ("LD_LIBRARY_PATH");
  snprintf (path, sizeof path, "%s/lib64", libdir);
  /* The real one starts nbdkit again for that, and would need a writable /tmp for the password then. */
  if (!loads || strcmp (loads, path) != 0) {
    nbdkit_error ("LD_LIBRARY_PATH is not %s", path);
    return -1;
  }
  snprintf (path, sizeof path, "%s/lib64/libvixDiskLib.so.7", libdir);
  if (!dlopen (path, RTLD_NOW)) {
    nbdkit_error ("%s\n\nIf 'lib64/libvixDiskLib.so.7' is located on a non-standard path you may need to\nset libdir", dlerror ());
    return -1;
  }
  return 0;
}

/* Whether a line of the map is for what was asked; its local file then. */
static int
fits (char *line, const char **local)
{
  const char *wanted[] = { file, server, user, password, thumbprint };
  line[strcspn (line, "\n")] = 0;
  for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; ++i) {
    char *end = strchr (line, '|');
    if (!end)
      return 0;
    *end = 0;
    if (strcmp (line, wanted[i]) != 0)
      return 0;
    line = end + 1;
  }
  *local = line;
  return 1;
}

static void *
standin_open (int readonly)
{
  char path[4096], line[4096];
  const char *local;
  snprintf (path, sizeof path, "%s/running", libdir);
  if (access (path, F_OK) == 0 && (!snapshot || strncmp (snapshot, "snapshot-", 9) != 0)) {
    nbdkit_error ("VixDiskLib_Open: Failed to lock the file");
    return NULL;
  }
  snprintf (path, sizeof path, "%s/map", libdir);
  FILE *map = fopen (path, "re");
  if (!map || !readonly) {
    nbdkit_error ("VixDiskLib_ConnectEx: %m");
    return NULL;
  }
  int fd = -1;
  while (fd == -1 && fgets (line, sizeof line, map))
    if (fits (line, &local))
      fd = open (local, O_RDONLY | O_CLOEXEC);
  fclose (map);
  if (fd == -1) {
    nbdkit_error ("VixDiskLib_ConnectEx: There is no such disk for this user of this server");
    return NULL;
  }
  int *handle = malloc (sizeof *handle);
  *handle = fd;
  return handle;
}

static void
standin_close (void *handle)
{
  close (*(int *) handle);
  free (handle);
}

static int64_t
standin_get_size (void *handle)
{
  struct stat seen;
  return fstat (*(int *) handle, &seen) == 0 ? seen.st_size : -1;
}

static int
standin_pread (void *handle, void *buffer, uint32_t count, uint64_t offset, uint32_t flags)
{
  char path[4096];
  unsigned pause = 0;
  snprintf (path, sizeof path, "%s/pace", libdir);
  FILE *pace = fopen (path, "re");
  if (pace) {
    if (fscanf (pace, "%u", &pause) == 1)
      usleep (pause);
    fclose (pace);
  }
  while (count > 0) {
    ssize_t got = pread (*(int *) handle, buffer, count, offset);
    if (got <= 0) {
      nbdkit_error ("VixDiskLib_Read: %m");
      return -1;
    }
    buffer = (char *) buffer + got;
    count -= got;
    offset += got;
  }
  return 0;
}

static int
standin_extents (void *handle, uint32_t count, uint64_t offset, uint32_t flags, struct nbdkit_extents *extents)
{
  int fd = *(int *) handle;
  uint64_t end = offset + count, at = offset;
  while (at < end) {
    off_t data = lseek (fd, at, SEEK_DATA);
    uint64_t from = data == -1 ? end : (uint64_t) data < end ? (uint64_t) data : end;
    if (from > at && nbdkit_add_extent (extents, at, from - at, NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO) == -1)
      return -1;
    if (from >= end)
      break;
    off_t hole = lseek (fd, from, SEEK_HOLE);
    uint64_t until = hole == -1 || (uint64_t) hole > end ? end : (uint64_t) hole;
    if (nbdkit_add_extent (extents, from, until - from, 0) == -1)
      return -1;
    at = until;
  }
  return 0;
}

static int
standin_can_extents (void *handle)
{
  return 1;
}

static struct nbdkit_plugin plugin = {
  .name = "vddk",
  .version = "stand-in",
  .config = standin_config,
  .config_complete = standin_config_complete,
  .get_ready = standin_get_ready,
  .open = standin_open,
  .close = standin_close,
  .get_size = standin_get_size,
  .pread = standin_pread,
  .can_extents = standin_can_extents,
  .extents = standin_extents,
};

NBDKIT_REGISTER_PLUGIN (plugin)
