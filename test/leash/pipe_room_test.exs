defmodule Leash.PipeRoomTest do
  # The whole VM shares the places, so no other test may fill pipes meanwhile.
  use ExUnit.Case, async: false

  alias Leash.Native
  alias Leash.Test.FarEnds

  @usual 64 * 1024
  @roomy 256 * 1024
  @places 32

  # Plays many programs and fills their pipes on order. It reports their sizes from the writer's
  # end.
  @programs """
  import fcntl
  pipes = []
  while True:
      pipes += ends
      if len(pipes) == COUNT: break
      ends = take()
  for pipe in pipes: os.set_blocking(pipe, False)
  for line in sys.stdin:
      order, worker, number = line.split()
      pipe = pipes[int(worker) - 1]
      if order == "say": os.write(pipe, b"x" * int(number))
      if order == "resize": fcntl.fcntl(pipe, 1031, int(number))
      if order == "fill":
          try:
              while True: os.write(pipe, b"x" * 65536)
          except BlockingIOError: pass
      print(fcntl.fcntl(pipe, 1032), flush=True)
  """

  setup do
    assert System.find_executable("python3"), "these tests need python3, to play the programs"
    :ok
  end

  test "a pipe that is often full gets room, and gives it back when hardly used" do
    {shim, [pipe]} = connect(1)
    for _ <- 1..3, do: assert(fill_and_read(shim, pipe) == @usual)
    # Pipes of the test before may still take places.
    assert eventually(fn -> fill_and_read(shim, pipe) == @roomy end)

    for _ <- 1..63, do: say_and_read(shim, pipe)
    assert size(shim, pipe) == @roomy
    # After one full pipe in between, the count begins anew.
    fill_and_read(shim, pipe)
    for _ <- 1..63, do: say_and_read(shim, pipe)
    assert size(shim, pipe) == @roomy
    say_and_read(shim, pipe)
    assert size(shim, pipe) == @usual
  end

  test "a pipe of another size keeps the size that was chosen" do
    {shim, [pipe]} = connect(1)
    order(shim, "resize", pipe, 128 * 1024)
    for _ <- 1..10, do: fill_and_read(shim, pipe)
    assert size(shim, pipe) == 128 * 1024
  end

  test "there are few places, and closing a pipe makes one" do
    {shim, pipes} = connect(@places + 1)

    assert eventually(fn ->
             Enum.count(pipes, &(fill_and_read(shim, &1) == @roomy)) >= @places
           end)

    for _ <- 1..8, pipe <- pipes, do: fill_and_read(shim, pipe)
    sizes = Enum.map(pipes, &size(shim, &1))
    assert Enum.count(sizes, &(&1 == @roomy)) == @places
    assert Enum.count(sizes, &(&1 == @usual)) == 1

    last = Enum.find(pipes, &(size(shim, &1) == @usual))
    {_number, fd} = Enum.find(pipes, &(&1 != last))
    :ok = Native.fd_close(fd)

    assert eventually(fn ->
             fill_and_read(shim, last)
             size(shim, last) == @roomy
           end)
  end

  defp connect(count) do
    code = String.replace(@programs, "COUNT", "#{count}")
    {program, ends} = FarEnds.open(code, List.duplicate([:stdout], count))
    {program, for({%{stdout: fd}, number} <- Enum.with_index(ends, 1), do: {number, fd})}
  end

  defp size(shim, pipe), do: order(shim, "size", pipe, 0)

  # The size of the pipe when it was full.
  defp fill_and_read(shim, {_number, fd} = pipe) do
    size = order(shim, "fill", pipe, 0)
    read_all(fd)
    size
  end

  defp say_and_read(shim, {_number, fd} = pipe) do
    order(shim, "say", pipe, 10)
    read_all(fd)
  end

  defp read_all(fd) do
    with {:ok, _data} <- Native.fd_read(fd, @roomy), do: read_all(fd)
  end

  defp order(shim, order, {number, _fd}, argument) do
    Port.command(shim, "#{order} #{number} #{argument}\n")
    assert_receive {^shim, {:data, {:eol, size}}}, 5_000
    String.to_integer(size)
  end

  defp eventually(condition), do: Leash.Test.Observer.eventually(5_000, condition)
end
