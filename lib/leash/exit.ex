defmodule Leash.Exit do
  @moduledoc """
  How a worker ended, and what it took to end the tree under it.

  A `Leash.Exit` exists only when the tree is gone: the shim, to which every orphan of the tree is
  reparented, was told by the kernel that it has no child left (`ECHILD` from waitid(2)); or, where
  the shim was killed, the warden that had started it says that nothing below it is left, or a look
  at all processes found none with the worker's tag; or what is left was kept on purpose.

    * `:status` - the worker's exit status, `nil` when a signal ended it
    * `:signal` - the signal that ended the worker, `nil` when it exited. Both are `nil` of a worker that was adopted (how it ended only
      its shim saw), and of what `Leash.attach/2` took over (only its parent learns it)
    * `:core_dumped?` - whether it left a core dump
    * `:cause` - why the tree was ended: `:exited` (the worker ended by itself), `:kept` (it ended by itself, and what
      it left goes on, as `on_exit: :keep` says), `:stop` (asked to
      stop, or the shim was signalled), `:kill` (asked to end at once), `:leash` (the VM let go),
      `:owner` (the VM ended), `:shim_died` (the shim was killed; the tree was ended by descent and by its tags), `:unseen` (an adopted
      worker ended without having been asked to)
    * `:step` - the step at which the last process went: `nil` (no step was needed), a signal of the
      ladder such as `:sigterm`, `:cmd` for a command, `:close_stdin`, or `:sigkill` of the final phase
    * `:steps` - every step taken, as `%{signal: signal, reaped: count}` in order. Counted are the
      processes that the shim reaped: those whose own parent reaped them are not seen. A command is
      `%{signal: nil, command: [path | args], result: result, reaped: count}`, where `result` is
      `{:status, status}`, `{:signal, signal}`, `{:error, posix}` (it could not be started), or nil (nothing was heard of its end).
      The end of stdin is `%{signal: nil, stdin: :closed, reaped: count}`
    * `:duration` - milliseconds from the beginning of the end to the last process
    * `:os_pid` - the worker's process id, which by now may belong to somebody else
  """

  alias Leash.{Signal, StopCommand}

  defstruct [
    :status,
    :signal,
    :cause,
    :step,
    :os_pid,
    core_dumped?: false,
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
          os_pid: pos_integer() | nil
        }

  @doc """
  The exit reason that a `Leash.Worker` has by default: `:normal` for status 0, `{:exit_status, n}`
  or `{:signal, name}` otherwise.

  `:normal` means that a supervisor does not restart a `:transient` worker that succeeded. It is `:normal`, too, where nobody
  saw how it ended: of an adopted worker, and of what `Leash.attach/2` took over.
  """
  @spec reason(t()) :: :normal | {:exit_status, 1..255} | {:signal, Signal.t()}
  def reason(%__MODULE__{status: 0}), do: :normal
  def reason(%__MODULE__{status: nil, signal: nil}), do: :normal
  def reason(%__MODULE__{status: nil, signal: signal}), do: {:signal, signal}
  def reason(%__MODULE__{status: status}), do: {:exit_status, status}
end
