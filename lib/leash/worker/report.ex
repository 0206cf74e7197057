defmodule Leash.Worker.Report do
  # What the shim reports, and what follows from it.
  @moduledoc false

  alias Leash.{Attachment, Exit, Guard, Posix, Shim, StopCommand, Telemetry}
  alias Leash.Worker.{Channel, Client, Ending, Pipes, Result, State}

  @doc "Takes one frame."
  @spec take(State.t(), binary()) :: State.t()
  def take(state, frame) do
    report = StopCommand.named(Shim.report(frame), state.options.stop, state.commands)
    report(state, report)
  end

  defp report(state, {:ready, %{mark: mark, shim: shim_pid}}) do
    state = report(%{state | mark: mark}, {:spawned, shim_pid})

    cond do
      state.ending ->
        State.update_row(state, tree: :ending)

      # Nobody would find its processes again, or know that they are to be left alone.
      state.options.on_exit == :detach and mark != :set ->
        Ending.fail(state, {:mark, with({:error, errno} <- mark, do: Posix.name(errno))})

      true ->
        state
    end
  end

  defp report(state, {:spawned, shim_pid}),
    do: State.update_row(%{state | shim_pid: shim_pid}, shim: shim_pid)

  defp report(state, {:started, os_pid}) do
    state = State.update_row(%{state | os_pid: os_pid}, os_pid: os_pid)
    Telemetry.worker(:start, state.number)
    Guard.watch(state.number, state.options[:guard], state.traffic)
    state = Pipes.feed(state)
    if state.phase == :launching, do: %{state | phase: :running}, else: state
  end

  defp report(state, {:attached, os_pid, _marked, _unmarked}) do
    attachment = Attachment.attached(state.attachment, state.run, state.number)
    report(%{state | attachment: attachment}, {:started, os_pid})
  end

  # No shim ever ran. Its arguments are the program's and some more.
  defp report(state, {:start_failed, :shim, errno}) do
    posix = Posix.name(errno)
    failure = state.failure || {if(posix == :e2big, do: :exec, else: :shim), posix}

    %{Channel.close(state) | phase: :done, failure: failure, result: {:error, :noproc}}
    |> State.update_row(tree: :gone)
  end

  defp report(state, {:start_failed, stage, errno}),
    do: %{state | failure: state.failure || {stage, Posix.name(errno)}}

  defp report(state, {:exited, how}),
    do: %{state | exited: how} |> Ending.exited() |> Client.exited()

  defp report(state, {:gone, %Exit{} = exit}),
    do: Result.answer_client(%{state | result: {:ok, %{exit | os_pid: state.os_pid}}})

  defp report(state, {:step, cause, step, elapsed}) do
    Telemetry.step(state.number, cause, step, elapsed)
    if step == :close_stdin, do: Pipes.close_input(state), else: state
  end

  defp report(state, {:command, index, result}), do: put_in(state.commands[index], result)

  defp report(state, _unknown), do: state
end
