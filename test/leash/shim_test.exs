defmodule Leash.ShimTest do
  use ExUnit.Case, async: true

  alias Leash.{Exit, Shim}

  test "reads every report" do
    assert Shim.report(<<1, 1, 4711::32, 0, 0::16, 7>>) == {:ready, %{shim: 4711, mark: :set}}
    assert {:ready, %{mark: :off}} = Shim.report(<<1, 1, 1::32, 1, 0::16, 7>>)
    assert {:ready, %{mark: :no_depth}} = Shim.report(<<1, 1, 1::32, 2, 0::16, 7>>)
    assert {:ready, %{mark: {:error, 1}}} = Shim.report(<<1, 1, 1::32, 3, 1::16, 7>>)
    assert Shim.report(<<2, 4712::32>>) == {:started, 4712}
    assert Shim.report(<<3, 11, 2::16>>) == {:start_failed, :exec, 2}
    assert Shim.report(<<4, 1, 0, 15, 0::32>>) == {:step, :leash, :sigterm, 0}
    assert Shim.report(<<4, 4, 255, 9, 10::32>>) == {:step, :kill, :sigkill, 10}
    assert Shim.report(<<5, 1, 7>>) == {:exited, {:status, 7}}
    assert Shim.report(<<5, 2, 9>>) == {:exited, {:signal, :sigkill}}
  end

  test "the last report says how it ended and at which step how many went" do
    frame = <<6, 2, 9, 3, 255, 2003::32, 2::32, 2, 0, 15, 3::32, 255, 9, 4::32>>

    assert Shim.report(frame) ==
             {:gone,
              %Exit{
                status: nil,
                signal: :sigkill,
                cause: :stop,
                step: :sigkill,
                steps: [%{signal: :sigterm, reaped: 3}, %{signal: :sigkill, reaped: 4}],
                duration: 2003
              }}

    assert {:gone, %Exit{status: 3, signal: nil, step: nil, steps: [], core_dumped?: false}} =
             Shim.report(<<6, 1, 3, 0, 254, 0::32, 0::32, 0>>)

    assert {:gone, %Exit{signal: :sigsegv, core_dumped?: true}} =
             Shim.report(<<6, 3, 11, 0, 254, 0::32, 0::32, 0>>)
  end

  test "commands of the ladder get their names" do
    stop = [{:cmd, ["x", "y"], 1}, {:sigterm, 1}, {:cmd, ["z"], 1}]
    named = &Shim.named(Shim.report(&1), stop, %{0 => {:status, 0}})

    assert named.(<<4, 3, 0, 0, 9::32>>) == {:step, :stop, {:cmd, ["x", "y"]}, 9}
    assert named.(<<4, 3, 1, 15, 9::32>>) == {:step, :stop, :sigterm, 9}
    assert Shim.report(<<7, 2, 1, 3, 0::16>>) == {:command, 2, {:status, 3}}
    assert Shim.report(<<7, 2, 2, 9, 0::16>>) == {:command, 2, {:signal, :sigkill}}
    assert Shim.report(<<7, 2, 0, 0, 2::16>>) == {:command, 2, {:error, :enoent}}

    frame = <<6, 1, 0, 3, 2, 5::32, 0::32, 3, 0, 0, 1::32, 1, 15, 2::32, 2, 0, 3::32>>
    assert {:gone, %Exit{step: :cmd, steps: steps}} = named.(frame)

    assert steps == [
             %{signal: nil, command: ["x", "y"], result: {:status, 0}, reaped: 1},
             %{signal: :sigterm, reaped: 2},
             %{signal: nil, command: ["z"], result: nil, reaped: 3}
           ]
  end

  test "what it does not know costs nothing" do
    for frame <- [
          "",
          <<0>>,
          <<7, 1, 2>>,
          <<7, 1, 4, 0, 0::16>>,
          <<2, 1>>,
          <<6, 1, 0, 0, 0, 0::32, 0::32, 5>>
        ] do
      assert Shim.report(frame) == {:unknown, frame}
    end
  end
end
