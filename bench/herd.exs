defmodule Bench.Herd do
  # A process table of a given size, full of processes that do nothing (bench/herd.c).
  @moduledoc false

  @doc "Runs a function while so many processes exist."
  def with_herd(size, function) do
    port =
      Port.open({:spawn_executable, Path.join(System.fetch_env!("LEASH_BENCH_WORK"), "herd")}, [
        :binary,
        :exit_status,
        args: ["#{size}"]
      ])

    receive do
      {^port, {:data, "up" <> _rest}} -> :ok
      {^port, {:exit_status, status}} -> raise "no herd of #{size}: status #{status}"
    end

    try do
      rows = function.()

      if Port.info(port) == nil,
        do: raise("the herd of #{size} ended before its figures were taken")

      rows
    after
      # The herd ends with its stdin. The next herd must not meet its remains.
      Bench.Alone.close(port)
      Process.sleep(2_000)
    end
  end
end
