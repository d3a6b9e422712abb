"""A job: rows of files, scored so that nothing is lost and nothing doubled, whatever happens."""

from packrank.jobs.run import run
from packrank.jobs.settings import Settings, Summary, Watch


class Job(Settings):
    """Score all rows of files, and go on where a run of the same job was stopped.

    What it is to do are its arguments: see `Settings`. Rows are read, tokenized, scored and written
    side by side, in bounded memory. Progress is kept beside the output, in OUTPUT.job or in
    OUTPUT/_job of a folder, so that a run that was killed loses some seconds; the output then has
    the bytes of an undisturbed run, on a CPU, and with deterministic=True on a CUDA device.
    """

    def run(self, watch: Watch | None = None) -> Summary:
        """Score what is not scored yet, and write it.

        Args:
            watch: is told how it goes on.

        Returns:
            What it came to. Where nothing is left to do, what earlier runs came to.

        Raises:
            JobError: the output belongs to another job, model or input; another process is at it;
                the disk is full.
            InputError: the input has no shape that is known, or an option does not fit it; where
                the job is strict, a row cannot be scored.
            OSError: a file cannot be read.
        """
        return run(self, watch)
