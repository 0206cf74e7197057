defmodule Leash.Test.Screen do
  @moduledoc """
  The keyboard and the screen of a worker with a terminal, whose output the test's process gets.
  """

  import ExUnit.Assertions

  @doc "Types text."
  @spec type(pid(), iodata()) :: :ok
  def type(worker, text) do
    assert Leash.Worker.write(worker, text) == :ok
    :ok
  end

  @doc """
  Waits until this is on the screen. Returns all that was shown since the last call, up to it.
  """
  @spec read_until(pid(), String.t() | Regex.t(), timeout()) :: binary()
  def read_until(worker, pattern, ms \\ 10_000),
    do: read(worker, pattern, rest(worker), System.monotonic_time(:millisecond) + ms)

  defp read(worker, pattern, shown, deadline) do
    case split(shown, pattern) do
      {before, rest} ->
        Process.put({__MODULE__, worker}, rest)
        before

      nil ->
        receive do
          {:leash_output, ^worker, :stdout, data} ->
            read(worker, pattern, shown <> data, deadline)

          {:EXIT, ^worker, reason} ->
            flunk("the worker ended (#{inspect(reason)}) after #{inspect(shown)}")
        after
          max(0, deadline - System.monotonic_time(:millisecond)) ->
            flunk("no #{inspect(pattern)} in #{inspect(shown)}")
        end
    end
  end

  @doc "Returns what is shown until the worker ends, and its exit reason."
  @spec read_to_end(pid()) :: {binary(), term()}
  def read_to_end(worker), do: read_to_end(worker, rest(worker))

  defp read_to_end(worker, shown) do
    receive do
      {:leash_output, ^worker, :stdout, data} ->
        read_to_end(worker, shown <> data)

      {:EXIT, ^worker, reason} ->
        {shown <> late(worker), reason}
    after
      10_000 -> flunk("the worker has not ended after #{inspect(shown)}")
    end
  end

  # The reader is another process than the worker.
  defp late(worker) do
    receive do
      {:leash_output, ^worker, :stdout, data} -> data <> late(worker)
    after
      0 -> ""
    end
  end

  defp rest(worker), do: Process.get({__MODULE__, worker}, "")

  defp split(shown, text) when is_binary(text) do
    case :binary.match(shown, text) do
      {at, length} -> cut(shown, at + length)
      :nomatch -> nil
    end
  end

  defp split(shown, regex) do
    case Regex.run(regex, shown, return: :index) do
      [{at, length} | _groups] -> cut(shown, at + length)
      nil -> nil
    end
  end

  defp cut(shown, at),
    do: {binary_part(shown, 0, at), binary_part(shown, at, byte_size(shown) - at)}
end
