defmodule Leash.Worker.Client do
  # The process that a command is for (`Leash.Command`): it reads the pipes itself, is told what becomes of the program,
  # and its end, whatever the reason, ends the tree.
  @moduledoc false

  alias Leash.Exit
  alias Leash.Worker.{Ending, State}

  require Logger

  @type how :: {:status, byte()} | {:signal, Leash.Signal.t()}

  @typedoc """
  How a program ended: by itself, or after something was done to end it.

  Where it was not seen, because its shim was killed or because it is among what could not be ended, SIGKILL stands for it.
  """
  @type ended :: {:by_itself | :ended, how()} | {:error, :start_timeout}

  @type t :: %{
          pid: pid(),
          ref: reference(),
          monitor: reference(),
          exited: how() | nil,
          output_done?: boolean(),
          answered?: boolean()
        }

  @doc "Watches it. It gets `{ref, message}`."
  @spec new(pid(), reference()) :: t()
  def new(pid, ref) do
    %{
      pid: pid,
      ref: ref,
      monitor: Process.monitor(pid),
      exited: nil,
      output_done?: false,
      answered?: false
    }
  end

  @doc "Sends it a message."
  @spec tell(State.t(), term()) :: State.t()
  def tell(state, message) do
    send(state.client.pid, {state.client.ref, message})
    state
  end

  @doc "The program has exited. What outlives it has no say in that, and neither has the clock."
  @spec exited(State.t()) :: State.t()
  def exited(%{client: client, ending: nil, exited: how} = state)
      when client != nil and how != :unknown,
      do: end_rest(put_in(state.client.exited, how))

  def exited(state), do: end_rest(state)

  @doc "The tree has ended, or as much of it as can be: `{:ended, ended, kept?}`, the latter of what it left."
  @spec tell_end(State.t()) :: State.t()
  def tell_end(%{result: result} = state) do
    log(state, result)
    state = tell(state, {:ended, ended(state), match?({:ok, %Exit{cause: :kept}}, result)})
    # It has waited for that, and what is left to be done here can wait.
    true = :erlang.yield()
    state
  end

  @spec ended(State.t()) :: ended()
  # It was not yet known to run when its time was over.
  defp ended(%{failure: :start_timeout}), do: {:error, :start_timeout}
  defp ended(%{client: %{exited: how}}) when how != nil, do: {:by_itself, how}
  defp ended(state), do: {:ended, seen(state.exited, state.result)}

  defp seen({_status_or_signal, _value} = how, _result), do: how
  defp seen(_unseen, {:ok, %Exit{status: status}}) when status != nil, do: {:status, status}
  defp seen(_unseen, {:ok, %Exit{signal: signal}}) when signal != nil, do: {:signal, signal}
  defp seen(_unseen, _result), do: {:signal, :sigkill}

  defp log(state, {:error, %{survivors: survivors}}) do
    Logger.warning(
      "Leash could not end all of command #{inspect(state.label)}: " <>
        if(survivors == [],
          do: "whether anything is left cannot be seen",
          else: Enum.map_join(survivors, ", ", &"#{&1.pid} (#{inspect(&1.command)}, #{&1.why})")
        )
    )
  end

  defp log(%{exited: nil, failure: :shim_died = failure} = state, {:ok, _exit}) do
    Logger.warning(
      "Leash has not seen how command #{inspect(state.label)} ended (#{failure}); its status is that of SIGKILL"
    )
  end

  defp log(_state, _result), do: :ok

  @doc "It has read all output."
  @spec output_done(State.t()) :: State.t()
  def output_done(state), do: end_rest(put_in(state.client.output_done?, true))

  @doc """
  Ends what a command left behind.

  Only when its output has ended too is a command over (a background process may hold it).
  """
  @spec end_rest(State.t()) :: State.t()
  def end_rest(%{client: %{output_done?: true}, exited: exited} = state) when exited != nil,
    do: Ending.begin(state, :ladder)

  def end_rest(state), do: state
end
