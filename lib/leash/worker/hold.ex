defmodule Leash.Worker.Hold do
  # What ties a Worker to its shim: the pidfd by which it is signalled, and the port, which is the leash.
  @moduledoc false

  alias Leash.{HeldShim, Native}
  alias Leash.Worker.State

  @doc "Holds the shim in a while, if nobody has needed it by then; see `Leash.HeldShim`."
  @spec later(State.t()) :: State.t()
  def later(state) do
    _timer = Process.send_after(self(), {:leash, :hold}, HeldShim.after_ms())
    state
  end

  @doc "Opens the pidfd of a shim that has reported, if it lives."
  @spec open(State.t()) :: State.t()
  def open(%{shim_fd: nil, mark: mark, phase: phase} = state)
      when mark != nil and phase in [:launching, :running, :ending] do
    case HeldShim.open(state.shim_pid, state.run.id, state.number) do
      {:ok, fd} ->
        ended? = Native.pidfd_monitor(fd, {:leash, :shim_ended}) != :ok
        %{state | shim_fd: fd, shim_ended?: ended?}

      # It has ended, and the port says so.
      {:error, gone} when gone in [:esrch, :not_ours] ->
        state

      # Not now, such as for want of a descriptor.
      {:error, _reason} ->
        if HeldShim.possible?(), do: later(state), else: state
    end
  end

  # It is held, has not reported yet, or is gone.
  def open(state), do: state

  @doc "Lets go of the leash."
  @spec close_port(State.t()) :: State.t()
  def close_port(%{port: nil} = state), do: state

  def close_port(%{port: port} = state) do
    Port.close(port)
    %{state | port: nil}
  rescue
    ArgumentError -> %{state | port: nil}
  end

  @doc "Ends this process's part in a tree that outlives it. The Reaper holds the shim from now on."
  @spec leave(State.t(), term()) :: State.t()
  def leave(state, reason) do
    state = state |> open() |> close_port()
    %{state | phase: :done, failure: reason, result: {:error, :noproc}}
  end
end
