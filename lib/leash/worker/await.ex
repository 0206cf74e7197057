defmodule Leash.Worker.Await do
  # A Worker's own loop, for when GenServer's does not run: in init and in terminate.
  @moduledoc false

  alias Leash.Worker.{Ending, Life, State}

  @doc """
  Handles messages until the condition holds, or the tree is gone.

  Past the deadline (milliseconds from now), or when the parent goes, the tree is ended first. Only messages of ours are taken:
  calls wait for the loop of GenServer.
  """
  @spec until(State.t(), timeout(), term(), (State.t() -> boolean())) :: State.t()
  def until(state, :infinity, failure, condition), do: loop(state, :infinity, failure, condition)
  def until(state, ms, failure, condition), do: loop(state, now() + ms, failure, condition)

  defp loop(state, deadline, failure, condition) do
    cond do
      state.phase == :done ->
        state

      state.failure == nil and state.ending == nil and condition.(state) ->
        state

      true ->
        case next_message(deadline) do
          {:leash, {:stop, _from, _how}} = message ->
            # Whoever waits for the start is told; an ending under way keeps its own reason.
            failure? = state.ending == nil and state.failure == nil
            state = if failure?, do: %{state | failure: :stopping}, else: state
            state |> Life.advance(message) |> loop(:infinity, failure, condition)

          {:EXIT, pid, reason} = message ->
            # A parent that ends takes us along whatever its reason; others only when they crash.
            if State.own_exit?(state, pid) or (reason == :normal and pid != state.parent),
              do: state |> Life.advance(message) |> loop(deadline, failure, condition),
              else: state |> Ending.fail(reason) |> loop(:infinity, failure, condition)

          :timeout ->
            state |> Ending.fail(failure) |> loop(:infinity, failure, condition)

          message ->
            state |> Life.advance(message) |> loop(deadline, failure, condition)
        end
    end
  end

  defp next_message(deadline) do
    receive do
      {:EXIT, _, _} = message -> message
      {:leash, _} = message -> message
      {:leash_fd, _, _} = message -> message
      {:output_ready, _} = message -> message
      {:DOWN, _, _, _, _} = message -> message
    after
      left(deadline) -> :timeout
    end
  end

  defp left(:infinity), do: :infinity
  defp left(deadline), do: max(0, deadline - now())

  defp now, do: System.monotonic_time(:millisecond)
end
