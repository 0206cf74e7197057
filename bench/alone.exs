defmodule Bench.Alone do
  # Takes each sample in a process of its own, which has a new heap and an empty mailbox.
  @moduledoc false

  @doc "Returns `{:ok, result}`, or `{:exit, reason}` if the function took its caller with it."
  def run(function) do
    parent = self()
    {pid, monitor} = spawn_monitor(fn -> send(parent, {self(), function.()}) end)

    receive do
      {^pid, result} ->
        # The end of this process must not fall into the next sample.
        receive do: ({:DOWN, ^monitor, _, _, _} -> {:ok, result})

      {:DOWN, ^monitor, :process, ^pid, reason} ->
        {:exit, reason}
    end
  end

  @doc "Does the same for contestants that may not fail."
  def run!(function) do
    case run(function) do
      {:ok, result} -> result
      {:exit, reason} -> exit(reason)
    end
  end

  @doc """
  Does the same for a peer. Some peers can take their caller with them, which gives `{:failed,
  reason}` in place of a number.
  """
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

  @doc "The text of a peer's cell: its median, or the reason why there is none."
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
