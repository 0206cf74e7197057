defmodule Bench.Alone do
  # A sample in a process of its own: nobody runs on another's heap or finds another's messages.
  @moduledoc false

  @doc "`{:ok, result}`, or `{:exit, reason}` where the function took its caller with it."
  def run(function) do
    parent = self()
    {pid, monitor} = spawn_monitor(fn -> send(parent, {self(), function.()}) end)

    receive do
      {^pid, result} ->
        # Its end, too, is not to fall on the next.
        receive do: ({:DOWN, ^monitor, _, _, _} -> {:ok, result})

      {:DOWN, ^monitor, :process, ^pid, reason} ->
        {:exit, reason}
    end
  end

  @doc "The same for those that may not fail."
  def run!(function) do
    case run(function) do
      {:ok, result} -> result
      {:exit, reason} -> exit(reason)
    end
  end

  @doc "The same for a peer, some of which can take their caller with them: `{:failed, reason}` in place of a number."
  def sample(function) do
    case run(function) do
      {:ok, result} -> result
      {:exit, reason} -> {:failed, reason}
    end
  end

  @doc "Closes a port whose program may be ending, and the port with it."
  def close(port) do
    Port.close(port)
  rescue
    ArgumentError -> true
  end

  @doc "What stands in a peer's cell: its median, or what became of it."
  def cell(samples, unit \\ 1) do
    case Enum.filter(samples, &is_number/1) do
      [] ->
        "not once"

      good ->
        median = Bench.Stats.median(good) / unit
        lost = length(samples) - length(good)

        if lost == 0,
          do: median,
          else: "#{Bench.Row.digits(median)} (#{lost} of #{length(samples)} not)"
    end
  end
end
