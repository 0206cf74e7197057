defmodule Leash.Worker.Client do
  # The process that a command is for (`Leash.Command`): it reads the pipes itself, is told what becomes of the program,
  # and its end, whatever the reason, ends the tree.
  @moduledoc false

  alias Leash.Worker.{Ending, State}

  @type t :: %{
          pid: pid(),
          ref: reference(),
          monitor: reference(),
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
