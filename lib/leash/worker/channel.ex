defmodule Leash.Worker.Channel do
  # The channel to the shim: what it reports, what it is asked for, and the hang-up, which ends the tree
  # (native/PROTOCOL.md, section 10). Beside it the shim's pidfd, for what a shim that is stopped or stuck does not read.
  @moduledoc false

  alias Leash.{HeldShim, Native, Reaper, Workers}
  alias Leash.Worker.{Aftermath, Report, State}

  @doc "Takes what the shim has said. Its end without a last report means that it was killed."
  @spec read(State.t()) :: State.t()
  def read(%{channel: nil} = state), do: state

  def read(%{channel: channel} = state) do
    case Native.channel_read(channel) do
      :again -> state
      ended when ended == :eof or elem(ended, 0) == :error -> Aftermath.shim_gone(close(state))
      message -> state |> take(message) |> read()
    end
  end

  @doc "Takes one message."
  @spec take(State.t(), Leash.Warden.message()) :: State.t()
  def take(state, {:spawned, frames, pidfd}), do: state |> hold(pidfd) |> take({:ok, frames})

  def take(state, {:ok, frames}) do
    for <<size::16, frame::binary-size(size) <- frames>>, reduce: state do
      state -> Report.take(state, frame)
    end
  end

  # The supervisor keeps it open when this process is killed: the Reaper then needs it.
  defp hold(state, pidfd) do
    _ = Native.fd_give(pidfd, Process.whereis(Leash.Supervisor) || self())
    State.update_row(%{state | shim_fd: pidfd}, shim_fd: pidfd)
  end

  @doc "Asks for the ladder or for SIGKILL at once, and wakes a shim that is stopped."
  @spec ask(State.t(), :ladder | :kill) :: State.t()
  def ask(state, how) do
    # So that others that may tell it (`Leash.stop_all/2`) do not tell it again, which would mean SIGKILL.
    _ = how == :ladder and Workers.first_to_tell?(state.number)
    _ = state.channel && Native.channel_ask(state.channel, how)
    signal(state, :wake)
  end

  @doc "Signals the shim itself."
  @spec signal(State.t(), :wake | :sigkill) :: State.t()
  def signal(state, how) do
    state = held(state, how)
    _ = state.shim_fd && Reaper.signal_shim(state.shim_fd, how)
    state
  end

  # The warden was killed between the start and its word. Nothing is lost yet; what does not answer has to be signalled.
  defp held(%{shim_fd: nil, shim_pid: pid} = state, :sigkill) when pid != nil do
    case HeldShim.open(pid, state.run.id, state.number) do
      {:ok, fd} -> %{state | shim_fd: fd}
      {:error, _gone} -> state
    end
  end

  defp held(state, _how), do: state

  @doc "Lets go of the leash."
  @spec close(State.t()) :: State.t()
  def close(%{channel: nil} = state), do: state

  def close(%{channel: channel} = state) do
    _ = Native.fd_close(channel)
    %{state | channel: nil}
  end

  @doc "Ends this process's part in a tree that outlives it. The Reaper answers for it from now on."
  @spec leave(State.t(), term()) :: State.t()
  def leave(state, reason) do
    state = close(state)
    %{state | phase: :done, failure: reason, result: {:error, :noproc}}
  end
end
