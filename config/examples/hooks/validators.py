"""Looks at converted disks: functions that hooks of type python name."""

import os


def check_disk(disk, least_mb):
    """Whether a result is there and not suspiciously small."""
    allocated = os.stat(disk).st_blocks * 512
    if allocated < least_mb * 1024 * 1024:
        return {"success": False, "error": f"{disk} holds only {allocated} bytes"}
    return {"output": f"{disk} holds {allocated} bytes"}
