defmodule Leash.Exit do
  @moduledoc """
  The end of a worker, and of the tree under it.

  A `Leash.Exit` exists only if the tree is gone, or if the processes that are left were kept on
  purpose. One of these shows that the tree is gone:

    * The kernel told the shim that it has no child left (`ECHILD` from waitid(2)). Every orphan
      of the tree is reparented to the shim
    * The shim was killed, and the warden that had started it says that nothing below it is left
    * The shim was killed, and a look at all processes found none with the worker's tag

  The fields:

    * `:status` - the worker's exit status, `nil` if a signal ended it
    * `:signal` - the signal that ended the worker, `nil` if it exited. For an adopted worker both
      are `nil`, because only its shim saw how it ended. They are also `nil` for an attached
      process, because only its parent learns it
    * `:core_dumped?` - whether it left a core dump
    * `:cause` - the cause for which the tree was ended, see below
    * `:step` - the step at which the last process ended; `nil` if no step was needed. It is a
      signal of the ladder such as `:sigterm`, `:cmd` for a command, or `:close_stdin`. `:sigkill`
      can also be that of the final phase
    * `:steps` - every step taken, as `%{signal: signal, reaped: count}` in order. `count` is the
      number of processes that the shim reaped. It does not include processes that their own
      parent reaped
    * `:duration` - milliseconds from the beginning of the end to the last process
    * `:os_pid` - the worker's process id, which by now may belong to another process
    * `:stderr` - the last lines of a `Leash.Worker`'s stderr, at most 20 and 4 KiB, as the log
      shows them. It is empty if stderr goes elsewhere (`{:file, path}`, `:null`, `:stdout`), and
      if its receiver has not taken all of it in time. The event `[:leash, :worker, :stop]` comes
      before the pipes are read to their end, and is without it
    * `:oom_killed?` - whether the kernel killed a process of the tree for want of memory. It is
      known only of a tree with `:cgroup` whose group counts memory, and false otherwise
    * `:peak_memory` - the most memory of the tree in bytes, by the same group (Linux 5.19);
      otherwise `nil`
    * `:cpu_time` - milliseconds of CPU time of the tree, of all processes that it ever had; `nil`
      without `:cgroup`

  In `:steps`, a command is
  `%{signal: nil, command: [path | args], result: result, reaped: count}`. `result` is
  `{:status, status}`, `{:signal, signal}`, `{:error, posix}` (it could not be started), or nil
  (its end was not reported). The end of stdin is `%{signal: nil, stdin: :closed, reaped: count}`.

  The values of `:cause`:

    * `:exited` - the worker ended by itself
    * `:kept` - it ended by itself, and the processes that it left go on, as `on_exit: :keep` says
    * `:stop` - it was asked to stop, or the shim was signalled
    * `:kill` - it was asked to end at once
    * `:leash` - the connection of the VM to the shim closed
    * `:owner` - the VM ended
    * `:shim_died` - the shim was killed; the tree was ended by descent and by its tags
    * `:unseen` - an adopted worker ended without a request
  """

  alias Leash.{Signal, StopCommand}

  defstruct [
    :status,
    :signal,
    :cause,
    :step,
    :os_pid,
    :peak_memory,
    :cpu_time,
    core_dumped?: false,
    oom_killed?: false,
    stderr: [],
    steps: [],
    duration: 0
  ]

  @typedoc "A step that was taken."
  @type step ::
          %{signal: Signal.t(), reaped: non_neg_integer()}
          | %{
              signal: nil,
              command: StopCommand.t() | byte() | nil,
              result: StopCommand.result(),
              reaped: non_neg_integer()
            }
          | %{signal: nil, stdin: :closed, reaped: non_neg_integer()}

  @type cause :: :exited | :kept | :stop | :kill | :leash | :owner | :shim_died | :unseen

  @type t :: %__MODULE__{
          status: 0..255 | nil,
          signal: Signal.t() | nil,
          core_dumped?: boolean(),
          cause: cause(),
          step: Signal.t() | :cmd | :close_stdin | nil,
          steps: [step()],
          duration: non_neg_integer(),
          os_pid: pos_integer() | nil,
          oom_killed?: boolean(),
          peak_memory: non_neg_integer() | nil,
          cpu_time: non_neg_integer() | nil,
          stderr: [String.t()]
        }

  @doc """
  The exit reason that a `Leash.Worker` has by default.

  It is `:normal` for status 0, `{:exit_status, n}` or `{:signal, name}` otherwise. With
  `:normal`, a supervisor does not restart a `:transient` worker. It is also `:normal` if the end
  was not seen: for an adopted worker, and for an attached process.
  """
  @spec reason(t()) :: :normal | {:exit_status, 1..255} | {:signal, Signal.t()}
  def reason(%__MODULE__{status: 0}), do: :normal
  def reason(%__MODULE__{status: nil, signal: nil}), do: :normal
  def reason(%__MODULE__{status: nil, signal: signal}), do: {:signal, signal}
  def reason(%__MODULE__{status: status}), do: {:exit_status, status}
end
